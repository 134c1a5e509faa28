"""What a job asks of the cluster; imports nothing heavy, so that `--help` need not wait."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from xmi.errors import RunError
from xmi.faults import explain, kind, listing
from xmi.fields import Count
from xmi.shown import Shown

_TIME = re.compile(r"(?:(?P<days>\d{1,3})-)?(?P<parts>\d{1,6}(?::\d{1,2}){0,2})")


def _word(what: str, signs: str = r"\w.\-") -> BeforeValidator:
    """Text of signs that a name in SLURM may have: a fault is seen here, not hours later in the queue."""

    def check(value: Any) -> Any:
        if value is not None and not (isinstance(value, str) and re.fullmatch(rf"[{signs}]{{1,200}}", value)):
            raise ValueError(f"expected {what}, found {kind(value)}")
        return value

    return BeforeValidator(check)


def _time(value: Any) -> Any:
    if not isinstance(value, str) or minutes(value) == 0:
        raise ValueError(f"expected a time as SLURM writes it (90, 12:00:00, 2-00:00:00), found {kind(value)}")
    return value


def minutes(time: str) -> int:
    """A time limit in minutes, rounded up; 0 if it is not one.

    Args:
        time: `minutes`, `minutes:seconds`, `hours:minutes:seconds`, `days-hours`, `days-hours:minutes` or
            `days-hours:minutes:seconds`, as sbatch takes it.
    """
    match = _TIME.fullmatch(time.strip())
    if match is None:
        return 0
    days, parts = match["days"], [int(part) for part in match["parts"].split(":")]
    if days is None:
        hours, mins, seconds = [0, *parts, 0] if len(parts) == 1 else [0, *parts] if len(parts) == 2 else parts
    else:
        hours, mins, seconds = [*parts, 0, 0][:3]
    return math.ceil(int(days or 0) * 1440 + hours * 60 + mins + seconds / 60)


class Resources(Shown, BaseModel):
    """What a job asks of SLURM, each field a flag of `xmi submit`; what is left out is the cluster's to decide."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    partition: Annotated[str | None, _word("partitions, separated by commas", r"\w.\-,")] = Field(
        None, description="Partition, or several: gpu,long."
    )
    time: Annotated[str, BeforeValidator(_time)] = Field(
        "24:00:00", description="Time limit: minutes, 12:00:00 or 2-00:00:00; then the job is queued again (24:00:00)."
    )
    gpus: Count | None = Field(None, ge=0, description="GPUs of each node.")
    cpus: Count | None = Field(None, ge=1, description="Cores of each node.")
    mem: Annotated[str | None, _word("memory as SLURM writes it (64G)", "0-9KMGT")] = Field(
        None, pattern=r"^\d+[KMGT]?$", description="Memory of each node: 64G."
    )
    nodes: Count = Field(1, ge=1, description="Nodes; more than one goes through Ray (1).")
    account: Annotated[str | None, _word("an account")] = Field(None, description="Account that is charged.")
    qos: Annotated[str | None, _word("a quality of service")] = Field(None, description="Quality of service.")
    constraint: Annotated[str | None, _word("features of nodes", r"\w.\-&|,*:()\[\]")] = Field(
        None, description="Features that nodes must have: a100|h100."
    )

    @classmethod
    def of(cls, **given: Any) -> Resources:
        """Resources that were asked for; None stands for the default.

        Raises:
            RunError: Values are faulty; all faults are listed.
        """
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            faults = listing(explain(error, cls.model_fields))
            raise RunError(f"The job cannot be submitted:\n{faults}") from error
