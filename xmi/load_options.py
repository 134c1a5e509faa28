"""Options of `xmi.load` as plan files and flags give them; imports nothing heavy, so that `--help` need not wait."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from xmi.faults import kind
from xmi.fields import Count, Switch, Text, plain


def _map(value: Any) -> Any:
    if value is not None and not (isinstance(value, (str, dict)) and value):
        raise ValueError(f"expected auto, or a device for each module, found {kind(value)}")
    return value


def _host(value: Any) -> Any:
    if value is not None and not (isinstance(value, bool) or (isinstance(value, str) and value)):
        raise ValueError(f"expected the address of a host, or true for the configured one, found {kind(value)}")
    return value


HOSTS = ("remote", "wait", "in_flight", "resubmit")
"""Options that are about a host."""


class Loading(BaseModel):
    """Options of `xmi.load` that a plan file may hold; each is a flag, too.

    None stands for the default of `xmi.load`, which the description has in brackets.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    device: Text | None = Field(None, description="Where the model goes: cpu, cuda, cuda:1 (a GPU if there is one).")
    dtype: Text | None = Field(None, description="Precision: float32, bfloat16, float16, or auto (auto).")
    batch_size: Count | None = Field(None, ge=1, description="Prompts per forward (16).")
    device_map: Annotated[Any, AfterValidator(_map)] = Field(None, description="Spread the model over devices: auto.")
    quantization: Literal["8bit", "4bit"] | None = Field(None, description="8bit or 4bit, by bitsandbytes.")
    attn_implementation: Text | None = Field(None, description="Attention as transformers names it: sdpa, eager, ...")
    trust_remote_code: Switch | None = Field(None, description="Run code that comes with the checkpoint.")
    remote: Annotated[Any, AfterValidator(_host)] = Field(
        None, description="NDIF host: its address, or ndif for the configured one."
    )
    wait: Annotated[float, BeforeValidator(plain)] | None = Field(
        None, ge=0, description="Seconds to wait for one job on the host (3600)."
    )
    in_flight: Count | None = Field(None, ge=1, description="Jobs on the host at the same time at most (4).")
    resubmit: Switch | None = Field(None, description="Resend, and pay again for, jobs that failed or were lost.")
