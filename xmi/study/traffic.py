"""What a study would send to a host, counted from the same lists of prompts that it runs; nothing is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from PIL import Image

from xmi.kernels import lens_kernel, next_token_kernel, residual_kernel, sweep_kernel
from xmi.prompt import Prompts, Task, free_prompt
from xmi.study.cell import ensemble_sizes, longest_label
from xmi.study.grid import Cell, cells_of, subjects
from xmi.study.plan import Plan
from xmi.study.prompts import asks, follows, lens_prompts, reads, sweeps, words_wanted
from xmi.vector import shared_pairs
from xmi.vector.override import asked_prompts, contest
from xmi.vlm import VLM

KERNELS = (residual_kernel, next_token_kernel, lens_kernel, sweep_kernel)
"""What most requests take along as source code."""


@dataclass(frozen=True)
class Traffic:
    """Requests, and the bytes that they bring to the host."""

    requests: int = 0
    up: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        """Returns both together."""
        return Traffic(self.requests + other.requests, self.up + other.up)


@dataclass(frozen=True)
class _Sent:
    """Prompts in a request, and how many numbers of vectors go with them."""

    prompts: Prompts
    numbers: int = 0


def traffic_of(vlm: VLM, plan: Plan, tasks: Mapping[str, Task], name: str) -> Traffic:
    """What one of a study's models takes, its checks included.

    Sweeps are taken to be packed, which a request for the first of each kind proves. Bytes are those of the compressed
    encodings of two prompts of each kind, of one image for each different one in a request, of vectors as they are, and
    of the code.

    Args:
        vlm: The model, without weights.
        plan: The plan.
        tasks: Its tasks, by their name in the plan.
        name: The model's name in the study; a base LLM only reads.
    """
    count = _Count(vlm, plan, tasks)
    found = count.checks()
    reads_for_others = subjects(plan)[name].role == "base"
    for cell in cells_of(plan, tasks):
        runs_here = reads_for_others if cell.kind == "base" else cell.model == name
        for sent in count.rounds(cell) if runs_here else ():
            found += count.request(sent)
    return found


class _Count:
    """Counts the requests of one model, cell by cell in the order of the study."""

    def __init__(self, vlm: VLM, plan: Plan, tasks: Mapping[str, Task]) -> None:
        self.vlm, self.plan, self.tasks = vlm, plan, tasks
        self.every = list(tasks.values())
        self.layers = len(plan.layers or range(vlm.backbone.n_layers))
        self._proven: set[tuple[bool, bool]] = set()

    def checks(self) -> Traffic:
        """One token, the proof on two texts, and the same prompt with two pictures if the model sees."""
        if self.vlm.encoder.processor is None:
            return Traffic(2, 2 * self.code)
        _, image = self._sizes(free_prompt("<image>Q:\nA:", [Image.new("RGB", (112, 112))]))
        return Traffic(3, 3 * self.code + 2 * image)

    def rounds(self, cell: Cell) -> list[list[_Sent]]:
        """The requests of a cell, one after another; what is no result of another goes at once."""
        match cell.kind:
            case "read" | "base":
                return [read] if (read := self._read(cell)) else []
            case "ask":
                return self._ask(cell, self.tasks[str(cell.task)])
            case "words":
                return [[_Sent(prompts) for prompts in lens_prompts(self.plan, self.every)]]
            case "ensembling":
                return self._ensembling()
            case "overriding":
                return self._overriding(cell.seed)
        return []

    def request(self, sent: Iterable[_Sent]) -> Traffic:
        """One request: equal images are in it once, and repeated text takes no room when it is compressed."""
        up, images = self.code, dict[str, int]()
        for one in sent:
            text, image = self._sizes(one.prompts)
            up += len(one.prompts) * text + 4 * one.numbers
            images |= {str(shown): image for prompt in one.prompts for shown in prompt.images}
        return Traffic(1, up + sum(images.values()))

    def _read(self, cell: Cell) -> list[_Sent]:
        base = cell.kind == "base"
        names = self.plan.tasks if base else [str(cell.task)]
        steps = [step for name in names for step in reads(self.plan, self.tasks[name], cell.seed) if step.base == base]
        return [_Sent(step.prompts) for step in steps]

    def _ask(self, cell: Cell, task: Task) -> list[list[_Sent]]:
        plan = self.plan
        several = plan.whole and longest_label(self.vlm, task) > 1
        given = [ask.prompts for ask in asks(plan, task, cell.seed)]
        if task.task_words or words_wanted(plan, self.every):
            given += [p for _, p in follows(plan, task, cell.seed) if p not in given]  # others share the forwards
        plain = [_Sent(prompts) for prompts in given]
        numbers = (len(plan.sources) + len(plan.controls)) * self.layers * self.vlm.backbone.d_model
        swept = [sweep.prompts for sweep in sweeps(plan, task)]
        return self._swept(swept, [numbers, *[0] * (len(swept) - 1)], several, plain)

    def _swept(
        self, queries: list[Prompts], numbers: list[int], several: bool = False, beside: Iterable[_Sent] = ()
    ) -> list[list[_Sent]]:
        """Sweeps in one request, and one before it for each kind of them that was not yet seen to be packed rightly.

        Args:
            queries: What vectors are patched into.
            numbers: How many numbers each takes along that no other has.
            several: Whether several tokens are read.
            beside: What goes with the sweeps.
        """
        proofs: list[list[_Sent]] = []
        for prompts in queries:
            kind = several, any(prompt.images for prompt in prompts)
            if kind not in self._proven:
                proofs.append([_Sent(prompts[:4])])  # with one vector at two layers
            self._proven.add(kind)
        sent = [_Sent(prompts, count) for prompts, count in zip(queries, numbers, strict=True)]
        return [*proofs, [*beside, *sent]]

    def _ensembling(self) -> list[list[_Sent]]:
        counts, seeds = ensemble_sizes(self.plan), self.plan.seeds
        read = [_Sent(task.instruction()) for task in self.every]
        read += [_Sent(t.icl("text", shots=1, n=counts[-1], seed=s)) for t in self.every for s in seeds]
        width = (1 + 2 * len(counts) * len(seeds)) * self.vlm.backbone.d_model
        rounds = [read]
        for split, layers in (("validation", self.vlm.backbone.n_layers), ("test", 1)):
            queries = [task.queries(target, split=split) for target in self.plan.targets for task in self.every]
            vectors = [width * layers] * len(self.every) + [0] * (len(queries) - len(self.every))
            rounds += self._swept(queries, vectors)
        return rounds

    def _overriding(self, seed: int) -> list[list[_Sent]]:
        shots, n = self.plan.shots, self.plan.prompts
        pairs = [contest(one, two) for one, two in shared_pairs(self.every)]
        read = [_Sent(b.icl("text", shots=shots, n=n, seed=seed, split=b.examples)) for _, b in pairs]
        asked = [asked_prompts(a, "text", "text", shots, seed) for a, _ in pairs]
        numbers = 2 * self.layers * self.vlm.backbone.d_model
        told = [_Sent(prompts) for prompts in asked]  # after an instruction
        return [read, *self._swept(asked, [numbers] * len(asked), beside=told)]

    @cached_property
    def code(self) -> int:
        """Bytes of a request without numbers."""
        from xmi.remote.payload import build  # httpx and the like, for this alone

        return len(build(self.vlm.engine.envoy, [(kernel, ()) for kernel in KERNELS]))

    def _sizes(self, prompts: Prompts) -> tuple[int, int]:
        """Bytes of a prompt's text, and of one of its images, as two prompts of the kind show."""
        few = prompts[:2]
        text, pixels = list[torch.Tensor](), list[torch.Tensor]()
        for tensor in self.vlm.encode(few).inputs.values():
            (pixels if tensor.is_floating_point() and tensor.dim() > 2 else text).append(tensor)
        shown = {str(image) for prompt in few for image in prompt.images}
        return _compressed(text) // len(few), _compressed(pixels) // max(1, len(shown))


def _compressed(tensors: Sequence[torch.Tensor]) -> int:
    """Bytes of tensors as they travel."""
    import zstandard

    from xmi.remote.payload import coded, pool_rows
    from xmi.remote.pytree import raw

    sent, pools = pool_rows(tensors)
    whole = [tensor for tensor in sent if isinstance(tensor, torch.Tensor)]
    parts = [*whole, *(part for pool in pools for part in coded(pool))]
    return len(zstandard.compress(b"".join(raw(part) for part in parts)))
