# ruff: noqa: E501, RUF024
"""Whatever a public function is given, it works or raises an `XmiError`; wrong arguments are named by it.

The calls are made from the signatures of everything that is public: each argument in turn is something else, the others
are right. A new function is tried as soon as it is exported; it fails here until its arguments can be found below.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch

import xmi
from tests.report.synthetic import make_run
from xmi import measure
from xmi.errors import ArgumentError, XmiError

pytestmark = pytest.mark.usefixtures("without_shape_checks")  # wrong values are what is tried here

ROOMS = ("", ".measure", ".vector", ".lens", ".plot", ".prompt", ".study", ".report", ".model", ".hooks")

SOME: dict[str, Any] = {
    "None": None, "-1": -1, "nan": math.nan, "a word": "no such word", "an object": object(), "nothing": (),
    "texts": ["a", "b"], "a tensor": torch.zeros(2, 3), "a dict": {"a": 1},
}  # fmt: skip
MORE: dict[str, Any] = {
    "0": 0, "3": 3, "2.5": 2.5, "inf": math.inf, "True": True, "no text": "", "bytes": b"x", "a list": [],
    "an empty dict": {}, "a list of None": [None], "numbers": [1, 2], "mixed": [1, "x", None], "a class": int,
    "a function": lambda *args: None, "an empty tensor": torch.zeros(0), "an array": np.zeros((2, 3, 4)),
    "whole numbers": np.arange(3), "an array of texts": np.array(["x"]), "NaN": np.full((2, 3, 4), math.nan),
    "a path": Path("/no/such/file"), "a surrogate": "\ud800", "NUL": "a\0b", "a slice": slice(None), "a set": {1, "a"},
    "a nested list": [[[]]], "a complex number": 1j, "an exception": ValueError("x"), "a Hook": xmi.Hook("x"),
    "a Template": xmi.Template(),
}  # fmt: skip

DIFFERENT = {
    "method_name": "takes a row of a table",
    "figure_of": "its options are those of the figure that draws the result",
    "Result.to_frame": "of no result of its own",
    "Result.figure": "of no result of its own",
    "Result.save": "of no result of its own",
    **dict.fromkeys(
        (
            "Anatomy", "Block", "Block.opened", "Block.calling", "Guard", "Guard.around", "Guard.renew", "Point", "Point.attach",
            "Engine.examine", "Engine.numbers", "Engine.overflow", "Probes", "guard_of", "guarded", "guards_in", "once",
            "open_blocks", "Generation", "LensValues", "Engine", "Engine.start", "Checkpoint", "Encoder", "read_depths", "Engine.reading", "Engine.forward", "Engine.place", "Engine.map", "Engine.together",
            "method_name", "patch_grid", "VLM.each",
        ),
        "takes live objects of a model, and is reached through VLM",
    ),
}  # fmt: skip
"""Callables that are not tried, and why."""
QUICK: dict[str, dict[str, Any]] = {
    "VLM.tune_lens": {"steps": 1, "size": 4},
    "VLM.ensembling": {"query": "text", "prompts": (1,), "seeds": (0,), "layer": 1, "n": 1},
    "VLM.ensembling_of": {"queries": ("text",), "prompts": (1,), "seeds": (0,), "layer": 1, "n": 1, "tasks": None},
    "VLM.override": {"shots": 1, "n": 1, "layers": [0]},
    **dict.fromkeys(("compare", "compare_all", "layerwise", "Phases.boundaries", "Phases.leading", "boundaries"), {"resamples": 9}),
    **dict.fromkeys(("alignment", "silhouette"), {"permutations": 9}),
}  # fmt: skip
"""Arguments that make a call short."""
LONG = {"render", "similarity_page", "VLM.ensembling", "VLM.ensembling_of", "VLM.override"}
"""Tried among the slow tests only."""
HEAVY = {"run_study", "load", "load_checkpoint", "check_model", "find_backbone", "attention"}
"""Not called with all that is wrong; see the tests of plans below."""


class Right:
    """A right argument for every parameter, and an instance of every class."""

    def __init__(self) -> None:
        self.folder = Path(mkdtemp(prefix="xmi-api-"))
        self.vlm = vlm = xmi.load("organism", device="cpu", dtype="float32")
        self.task, self.other = xmi.task("country-capital"), xmi.task("country-currency")
        self.prompts, self.queries = self.task.icl("text", shots=1, n=3)[:2], self.task.queries("text")[:2]
        self.vector, self.answers = vlm.task_vector(self.prompts), vlm.answers(self.prompts)
        self.transfer = vlm.transfer({"a": self.vector}, to=self.queries, layers=[0, 1])
        self.phases = vlm.phases(self.prompts)
        self.words = vlm.find_task_words([self.prompts, self.other.icl("text", shots=1, n=2)], share=0.1, mass=0.0)
        self.lens = vlm.tune_lens(self.prompts, steps=1, size=4)
        self.points = np.random.default_rng(0).normal(size=(8, 3, 4))
        self.tasks, self.modalities = ["a", "a", "b", "b"] * 2, ["text"] * 4 + ["image"] * 4
        self.batch, (_, self.cache) = vlm.encode(self.prompts), vlm.run_with_cache(self.prompts, names=["resid_post"])
        self.results = xmi.StudyResults(make_run(self.folder / "run", items=4, layers=2, images=False))
        self.instances = {type(one).__name__: one for one in self._instances()}

    def _instances(self) -> Iterator[Any]:
        vlm = self.vlm
        yield from (vlm, self.task, self.prompts, self.vector, self.answers, self.transfer, self.phases, self.words)
        yield from (self.lens, self.batch, self.cache, self.results, vlm.encoder, vlm.engine, vlm.backbone)
        yield from (self.prompts[0], self.prompts[0].segments[0], self.task.items[0], self.task.template)
        yield from (self.vector.card, self.lens.card, xmi.Hook("blocks.0.hook_resid_post"), vlm.check(again=False))
        yield from (vlm.residuals(self.prompts), vlm.lens(self.prompts), vlm.engine.checkpoint)
        yield from (measure.boundaries({"a": self.phases}), self.answers.accuracy())
        yield measure.compare(self.answers, self.answers)
        yield measure.layerwise(self.transfer, baseline=self.transfer.clean)
        yield measure.cosine_per_layer(self.points, list("abcdefgh"))
        yield measure.project(self.points, self.tasks, self.modalities)
        yield measure.silhouette(self.points, self.tasks, self.modalities, permutations=9)
        yield measure.similarity_to_base(self.points, self.points, list("abcdefgh"))
        yield measure.alignment(self.points, self.tasks, self.modalities, permutations=9)
        yield vlm.compare_base(vlm)
        small = {"prompts": (1, 2), "seeds": (0,), "layer": 1, "n": 2}
        yield vlm.ensembling(self.task, "text", query="text", **small)
        yield vlm.override(self.task, self.other, shots=1, n=2, layers=[0])
        yield importlib.import_module("xmi.study").Plan(model="organism", tasks=["country-capital"])
        yield measure.AttentionPattern(("a",), ("text",), np.ones((1, 1, 1)), 0)
        yield vlm.trajectory(self.prompts)
        from xmi.lens import LogitLens
        from xmi.prompt.seen_images import SeenImages

        yield from (LogitLens(), SeenImages())
        yield self.task.template
        yield next(iter(vlm.engine.anatomy.points.values())) if hasattr(vlm.engine, "anatomy") else self.task

    def argument(self, label: str, parameter: inspect.Parameter) -> Any:
        """What a call gives for a parameter that has no default.

        Raises:
            LookupError: It is not known.
        """
        own = self.special()
        for key in (f"{label}.{parameter.name}", parameter.name):
            if key in own:
                return own[key]
        first = str(parameter.annotation).strip("'\"").split(" | ")[0].split("[")[0].split(".")[-1]
        return self.instances[first]

    @cache  # noqa: B019 (there is one)
    def special(self) -> dict[str, Any]:
        vlm, said = self.vlm, torch.zeros(2, 1, dtype=torch.long)
        scored = [(said, torch.zeros(2), said[:, 0])]
        answers = {"A": self.answers, "B": self.answers}
        return {
            "prompt": "France :", "doing": "reading", "prompts": self.prompts, "to": self.queries, "slots": ["last"], "slot": "last",
            "sizes": [1, 2], "vectors": [self.vector, self.vector], "tasks": [self.task, self.other], "base": vlm,
            "path": self.folder / "file.json", "text": "a text", "shots": 1, "name": "x", "n_layers": 8, "k": 2,
            "engine": vlm.engine, "encoder": vlm.encoder, "batches": [self.batch], "lens": self.instances["LogitLens"],
            "layers": [0, 1], "points": self.points, "modalities": self.modalities, "labels": list("abcdefgh"),
            "fwd_hooks": [], "exclude": [], "share": 0.5, "mass": 0.0, "times": 2.0, "limit": 2, "seed": 0, "steps": 1,
            "runs": [self.results.path], "task": self.task, "other": self.other, "source": "organism", "modality": "text", "score": "paper",
            "hits": [True, False], "units": ["a", "b"], "p": [0.1, 0.2], "mean": 0.5, "n": 4, "own": self.points,
            "a": self.answers, "b": self.answers, "training": {"country-capital": ["Paris"]}, "winner": "patched",
            "pairs": [(self.answers, self.answers, ("a", "b"))], "asked": self.answers, "answers": answers,
            "transfers": {"T": self.transfer}, "transfer": self.transfer, "measured": self.phases, "layer": 0,
            "predicted": "x", "answer": "x", "predicted_id": 1, "answer_id": 1, "label": "x", "parts": [self.phases],
            "glance.tables": {"organism": self.results.summary("organism")}, "names": ["a"], "missing": {}, "wanted": "a", "short": "resid_post", "config": vlm.model.config,
            "d_model": vlm.backbone.d_model, "template": self.vector.card.template, "model": "organism",
            "said": scored, "examples": 1, "measure": "centroid", "word": "x", "ids": [1], "results": self.results,
            "tokenizer": vlm.encoder.tokenizer, "rate": 0.001, "decay": 0.01, "held_out": 0.2, "new": 1,
            "task_words": ["a"], "read": lambda prompts: [vlm.encode(prompts)], "max_new_tokens": 1, "strength": 1.0,
            "mode": "overwrite", "accuracies.result": self.answers, "comparisons.result": self.instances["Comparison"], "row": {"source": "a", "target": "b"}, "query": "text",
            "Answers.of_task.task": "country-capital", "Transfer.of_task.task": "country-capital",
            "Answers.concat.parts": [self.answers], "Transfer.concat.parts": [self.transfer],
            "Boundaries.concat.parts": [self.instances["Boundaries"]], "Overriding.concat.parts": [self.instances["Overriding"]],
            "EnsembleCurve.concat.parts": [self.instances["EnsembleCurve"]], "TaskWords.of.task": "country-capital",
            "TaskWords.ids_of.task": "country-capital", "alignment.tasks": self.tasks, "project.tasks": self.tasks,
            "silhouette.tasks": self.tasks, "similarity_to_base.tasks": list("abcdefgh"),
            "similarity_to_base.base": self.points,
            "cosine_per_layer.vectors": self.points, "answers_at.source": "a", "base_similarity.own": [self.vector],
            "base_similarity.base": [self.vector], "transfer.vectors": {"a": self.vector}, "vector": self.vector,
            "VLM.find_task_words.prompts": [self.prompts, self.prompts], "find_task_words.prompts": [self.prompts, self.prompts],
            "find_task_words.batches": [[self.batch], [self.batch]], "tune_lens.prompts": [self.prompts],
            "score_answers.wanted": [torch.tensor([1, 2])], "majority.result": self.answers,
            "Task.split.name": "test", "split": "test", "boundaries.measured": {"a": self.phases},
            "Boundaries.relative.layers": np.zeros((1, 2)), "Proportion.apart.other": self.answers.accuracy(),
            "Engine.map.arguments": [], "Engine.map.kernel": len, "Engine.together.tasks": [], "Point.attach.model": vlm.model,
            "Engine.place.inputs": {}, "Engine.forward.inputs": self.batch.inputs, "Engine.reading.inputs": self.batch.inputs,
            "Engine.reading.columns": torch.tensor([1, 1]), "columns": torch.tensor([1, 1]), "asked_": 1,
            "read_depths.asked": [], "Encoder.decode.ids": [1, 2], "summary.result": self.results.summary("organism"),
            "cell": "text ICL", "before": "A:", "Plan.differences.other": self.instances["Plan"], "find_segment.prompt": self.prompts[0], "Encoder.answer_ids.template": xmi.Template(), "tokens": [1, 2], "Encoder.first_tokens.labels": ["a"], "count": 8, "StudyResults.transfer.target": "text", "StudyResults.projection.method": "pca",
            "TunedLens.to.device": "cpu", "Batch.padded.side": "left", "Encoder.accept.given": {}, "messages": [],
            "Encoder.is_whole.ids": [1], "Encoder.text.ids": [1], "Encoder.decode.id": 1, "given": "a", "Encoder.is_whole.id": 1,
            "VLM.decode.values": self.vector.values, "TaskVector.decode.vlm": vlm, "VLM.pattern.prompt": self.prompts[:1],
            "token": 1, "words": ["a"], "columns_": 1, "from_end.column": 1, "from_end.length": 2, "column": 1,
            "length": 3, "StudyResults.vector.task": "country-capital", "StudyResults.vector.seed": 0, "StudyResults.path": self.results.path,  "StudyResults.records.source": None,
        }  # fmt: skip


@cache
def right() -> Right:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Right()


def public() -> Iterator[tuple[str, Any, type | None]]:
    """Everything that is public: its name, itself or the name of a method, and the class that has the method."""
    seen = set()
    for room in ROOMS:
        module = importlib.import_module(f"xmi{room}")
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value):
                if issubclass(value, BaseException) or getattr(value, "_is_protocol", False) or value in seen:
                    continue
                seen.add(value)
                yield name, value, None
                methods = {
                    m: f
                    for kind in reversed(value.__mro__)
                    if kind.__module__.startswith("xmi")
                    for m, f in vars(kind).items()
                }
                for method, function in methods.items():
                    if not method.startswith("_") and inspect.isfunction(getattr(function, "__func__", function)):
                        yield f"{name}.{method}", method, value
            elif inspect.isfunction(value) and value not in seen:
                seen.add(value)
                yield name, value, None


CALLS = {f"{place} {label}": (label, what, owner) for place, (label, what, owner) in enumerate(public())}


def prepared(
    label: str, what: Any, owner: type | None
) -> tuple[Callable[..., Any], dict[str, inspect.Parameter], dict[str, Any]]:
    """A callable, its parameters, and right arguments for those that need one."""
    there = right()
    function = what if owner is None else getattr(there.instances.get(owner.__name__, owner), what)
    parameters = dict(inspect.signature(function).parameters)
    given: dict[str, Any] = {}
    if inspect.isclass(function) and dataclasses.is_dataclass(function) and function.__name__ in there.instances:
        one = there.instances[function.__name__]
        given = {f.name: getattr(one, f.name) for f in dataclasses.fields(function) if f.init}
    elif inspect.isclass(function) and hasattr(function, "model_fields"):
        given = there.instances[function.__name__].model_dump()
    else:
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_KEYWORD,
                parameter.VAR_POSITIONAL,
            ):
                given[name] = there.argument(label, parameter)
    if owner is not None or not str(getattr(what, "__module__", "")).startswith("xmi.plot"):
        given |= {name: value for name, value in QUICK.get(label, {}).items() if value is not None}
    return function, parameters, given


def left_out(label: str, what: Any) -> bool:
    """Whether a callable is not tried; figures may have the names of what they draw."""
    drawn = str(getattr(what, "__module__", "")).startswith("xmi.plot")
    return label.split(".")[-1] in HEAVY or (
        label in DIFFERENT and (not drawn or label in ("figure_of", "method_name"))
    )


def outcome(
    function: Callable[..., Any], parameters: dict[str, inspect.Parameter], given: dict[str, Any], name: str
) -> str | None:
    """What is wrong with how a call ends, or None."""
    kind = parameters[name].kind
    first = [given[n] for n, p in parameters.items() if p.kind is p.VAR_POSITIONAL and n in given]
    rest = {n: v for n, v in given.items() if parameters[n].kind is not inspect.Parameter.VAR_POSITIONAL}
    try:
        found = function(*first, **rest)
        if hasattr(found, "__enter__") and hasattr(found, "gen"):
            with found:
                pass
        elif inspect.isgenerator(found):
            list(itertools.islice(found, 3))
    except ArgumentError as error:
        if kind is not kind.VAR_KEYWORD and " must be " in str(error) and name not in str(error):
            return f"does not name it: {error}"
    except XmiError:
        pass
    except Exception as error:
        frames = [f"{Path(f.filename).name}:{f.lineno}" for f in inspect.getinnerframes(error.__traceback__)][-2:]  # type: ignore[arg-type]
        return f"{type(error).__name__}: {str(error)[:100]!r} ({' '.join(frames)})"
    return None


def failures(label: str, what: Any, owner: type | None, wrong: dict[str, Any]) -> list[str]:
    function, parameters, given = prepared(label, what, owner)
    found = []
    for name, parameter in parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        for called, value in wrong.items():
            if value is None and parameter.default is None:
                continue
            said = outcome(function, parameters, {**given, name: value}, name)
            if said:
                found.append(f"{label}({name}={called}) {said}")
    return found


def check(call: str, wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    label, what, owner = CALLS[call]
    if left_out(label, what):
        pytest.skip(DIFFERENT.get(label, "takes a model or a plan: see below"))
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = failures(label, what, owner, wrong)
    assert not found, f"{len(found)} calls end in something else than a result or an XmiError:\n" + "\n".join(found)


@pytest.mark.fault("E14")
@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_argument_is_refused_by_name(call: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if CALLS[call][0] in LONG:
        pytest.skip("takes long: among the slow tests")
    check(call, SOME, monkeypatch, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("call", CALLS)
def test_any_wrong_argument_is_refused_by_name(call: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check(call, SOME | MORE, monkeypatch, tmp_path)


def test_calls_that_begin_a_greenlet_are_xmis_own() -> None:
    """On a host operations begin greenlets, above which there is no frame to look at."""
    from greenlet import greenlet

    assert greenlet(xmi.Template).run is xmi.Template
    assert greenlet(xmi.Template).switch(prefix="Q: ").prefix == "Q: "
