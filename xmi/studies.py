"""Studies from the plan to the page: of one model, or of several, one after another."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmi.errors import RunError, XmiError
from xmi.faults import kind, some
from xmi.study.plan import FOLDER, read_plan

if TYPE_CHECKING:
    from xmi.study import StudyResults

Say = Callable[[str], None]


@dataclass(frozen=True)
class Several:
    """What became of the studies of several models.

    Attributes:
        finished: Results of those that were finished, in the order of the plan.
        failed: What went wrong with the others, by model.
    """

    finished: tuple[StudyResults, ...]
    failed: Mapping[str, str]


def studies_of(plan: str | Path | None = None, **given: Any) -> list[dict[str, Any]]:
    """The arguments of `xmi.run` for each model of a plan; nothing is loaded.

    Args:
        plan: A plan file (YAML), whose `model` may be a list.
        **given: As in `xmi.run`; `model` may be a list, and what is given stands before the file.

    Returns:
        One for a plan of one model. For a list one each, with a run folder called after the model below `out`: the same
        study as if the model were named alone with this folder.

    Raises:
        RunError: The file cannot be read, or models of a list have no name, or the same.
    """
    own = {name: value for name, value in {"plan": plan, **given}.items() if value is not None}
    wanted = (read_plan(plan) if plan is not None else {}) | own
    models = wanted.get("model")
    if not isinstance(models, (list, tuple)):
        return [own]
    if not models or not all(isinstance(model, (str, Path)) and str(model) for model in models):
        found = next((model for model in models if not isinstance(model, (str, Path)) or not str(model)), None)
        raise RunError(f"model: expected a list of models by name, found {kind(found)} in it.")
    if wanted.get("revision"):
        raise RunError("revision: several models have none in common. Leave it out, or study the model alone.")
    folders: dict[str, str] = {}
    for model in map(str, models):
        name = Path(model).name or model
        if other := folders.get(name.casefold()):
            raise RunError(f"{other} and {model} would both be stored in the folder {name}. Give one another name.")
        folders[name.casefold()] = model
    out = Path(wanted.get("out", FOLDER))
    return [{**own, "model": str(model), "out": str(out / (Path(model).name or model))} for model in models]


def run_to_page(say: Say, **given: Any) -> tuple[StudyResults, Path]:
    """Runs a study and writes its pages into the run folder.

    Args:
        say: Told one line per finished step.
        **given: As in `xmi.run`.

    Returns:
        The results, and the path of the report.
    """
    from xmi.report import render, similarity_page
    from xmi.study import run_study

    results = run_study(say=say, **given)
    page = render(results, results.path / "report.html")
    similarity_page(results, results.path / "similarity.html")
    return results, page


def run_each(studies: Sequence[Mapping[str, Any]], say: Say, **also: Any) -> Several:
    """Runs the studies of several models, one after another; one that fails does not stop the others.

    Args:
        studies: As `studies_of` gives them.
        say: Told one line per finished step.
        **also: More arguments of `xmi.run`, for all of them.
    """
    finished, failed = [], {}
    for number, study in enumerate(studies, 1):
        say(f"model {number} of {len(studies)}: {study['model']}")
        try:
            finished.append(run_to_page(say, **study, **also)[0])
        except Exception as error:  # a model that does not fit into memory must not cost the others
            failed[study["model"]] = f"{type(error).__name__}: {error}"
            say(f"error ({type(error).__name__}): {error}")
            if not isinstance(error, (XmiError, OSError)):
                say(traceback.format_exc())
        release_memory()
    return Several(tuple(finished), failed)


def release_memory() -> None:
    """Frees what the last model took: its parts refer to each other, and a GPU keeps what was freed."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def failures(several: Several) -> list[str]:
    """What went wrong, one line per reason with the models that it is about."""
    reasons: dict[str, list[str]] = {}
    for model, why in several.failed.items():
        reasons.setdefault(why, []).append(model)
    return [f"{some(models)}: {why}" for why, models in reasons.items()]
