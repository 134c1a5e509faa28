"""What a study would send to a host, counted from the same lists of prompts that it runs; nothing is sent."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import torch
from PIL import Image

from xmi.backend.portions import Load, cut_calls, cut_prompts, picture_bytes
from xmi.kernels import lens_kernel, next_token_kernel, residual_kernel, sweep_kernel
from xmi.prompt import Prompts, Task, free_prompt
from xmi.study.experiments import registry
from xmi.study.experiments.experiment import Forward
from xmi.study.grid import cells_for
from xmi.study.plan import Plan
from xmi.vector.memory import load_of
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


def traffic_of(vlm: VLM, plan: Plan, tasks: Mapping[str, Task], name: str) -> Traffic:
    """What one of a study's models takes, its checks included.

    Sweeps are taken to be packed, which a request for the first of each kind proves; pictures to be as large as those
    of two prompts of their kind, by which requests are cut as they are in a run. Bytes are those of the compressed
    encodings of two prompts of each kind, of one image for each different one in a request, of vectors as they are, and
    of the code.

    Args:
        vlm: The model, without weights.
        plan: The plan.
        tasks: Its tasks, by their name in the plan.
        name: The model's name in the study; a base LLM only reads.
    """
    count = _Count(vlm)
    found = count.checks()
    for cell in cells_for(name, plan, tasks):
        for sent in count.rounds(registry()[cell.kind].rounds(cell, plan, tasks, vlm)):
            for calls in count.requests(sent, plan.patch_slot):
                found += count.request(calls)
    return found


@dataclass(frozen=True)
class _Sizes:
    """Bytes of a prompt's text and of an image as they travel, and of an image as requests are cut by it."""

    text: int
    image: int
    room: int


@dataclass(frozen=True)
class _Sent:
    """A call: what it brings, by which requests are cut, and the bytes of its text and of each image as they travel."""

    load: Load
    text: int
    image: int


class _Count:
    """Counts the requests of one model, cell by cell in the order of the study."""

    def __init__(self, vlm: VLM) -> None:
        self.vlm = vlm
        self._proven: set[tuple[bool, bool, bool]] = set()

    def checks(self) -> Traffic:
        """One token, the proof on two texts, and the same prompt with two pictures if the model sees."""
        if self.vlm.encoder.processor is None:
            return Traffic(2, 2 * self.code)
        sizes = self._sizes(free_prompt("<image>Q:\nA:", [Image.new("RGB", (112, 112))]))
        return Traffic(3, 3 * self.code + 2 * sizes.image)

    def rounds(self, given: Iterable[Sequence[Forward]]) -> Iterator[Sequence[Forward]]:
        """The requests of a cell: its rounds, and before them one for each kind of fast way not yet proven."""
        for sent in given:
            for one in (one for one in sent if one.sets or one.tokens > 1):
                kind = bool(one.sets), one.tokens > 1, any(prompt.images for prompt in one.prompts)
                if kind not in self._proven:
                    yield [Forward(one.prompts[: 4 if one.sets else 2])]  # of sweeps, one vector at two layers
                self._proven.add(kind)
            if sent:
                yield sent

    def requests(self, sent: Sequence[Forward], slot: str) -> Iterator[list[_Sent]]:
        """The calls of a round, cut into requests."""
        calls = [
            call for number, one in enumerate(sent) for call in self._calls(one, 0 if one.shares else number, slot)
        ]
        rest = iter(calls)
        for size in cut_calls(call.load for call in calls):
            yield list(islice(rest, size))

    def _calls(self, one: Forward, vectors: int, slot: str) -> Iterator[_Sent]:
        """The calls of a forward: its prompts in batches; of a sweep, each with every part of the vectors."""
        sizes = self._sizes(one.prompts)
        parts = list(self._parts(one, vectors, slot)) if one.sets else [dict[Hashable, int]()]
        for start in range(0, len(one.prompts), self.vlm.batch_size):
            batch = iter(one.prompts[start : start + self.vlm.batch_size])
            for size in cut_prompts([p.images for p in one.prompts[start : start + self.vlm.batch_size]], sizes.room):
                some = list(islice(batch, size))
                shown = {str(image) for prompt in some for image in prompt.images}
                pictures: dict[Hashable, int] = dict.fromkeys(shown, sizes.room)
                for part in parts:
                    yield _Sent(Load(pictures, part), size * sizes.text, sizes.image)

    def _parts(self, one: Forward, vectors: int, slot: str) -> Iterator[dict[Hashable, int]]:
        """Vectors as a packed sweep of a batch is divided, see `xmi.vector.sweep`."""
        first = self.vlm.encode(one.prompts[:1])
        length, rows = int(first.inputs["input_ids"].shape[1]), min(self.vlm.batch_size, len(one.prompts))
        tail = length - int(first.columns(slot)[0])
        load = load_of(self.vlm.engine, (rows, length), tail, one.tokens, cached=True)
        some, groups = load.parts(one.sets, one.layers)
        for begin in range(0, one.sets, groups):
            for layer in range(0, one.layers, some):
                size = 4 * min(some, one.layers - layer) * self.vlm.backbone.d_model
                yield {(vectors, s, layer): size for s in range(begin, min(begin + groups, one.sets))}

    def request(self, calls: Iterable[_Sent]) -> Traffic:
        """One request: equal images are in it once, and repeated text takes no room when it is compressed."""
        up, others, images = self.code, dict[Hashable, int](), dict[Hashable, int]()
        for call in calls:
            up += call.text
            others |= call.load.others
            images |= dict.fromkeys(call.load.pictures, call.image)
        return Traffic(1, up + sum(others.values()) + sum(images.values()))

    @cached_property
    def code(self) -> int:
        """Bytes of a request without numbers."""
        from xmi.remote.payload import build  # httpx and the like, for this alone

        return len(build(self.vlm.engine.envoy, [(kernel, ()) for kernel in KERNELS]))

    def _sizes(self, prompts: Prompts) -> _Sizes:
        """Bytes of a prompt and of one of its images, as two prompts of the kind show."""
        few = prompts[:2]
        text, pixels, inputs = list[torch.Tensor](), list[torch.Tensor](), self.vlm.encode(few).inputs
        for tensor in inputs.values():
            (pixels if tensor.is_floating_point() and tensor.dim() > 1 else text).append(tensor)
        shown = [image for prompt in few for image in prompt.images]
        return _Sizes(
            _compressed(text) // len(few),
            _compressed(pixels) // max(1, len(set(map(str, shown)))),
            picture_bytes(inputs, len(shown)),
        )


def _compressed(tensors: Sequence[torch.Tensor]) -> int:
    """Bytes of tensors as they travel."""
    import zstandard

    from xmi.remote.payload import coded, pool_rows
    from xmi.remote.pytree import raw

    sent, pools = pool_rows(tensors)
    whole = [tensor for tensor in sent if isinstance(tensor, torch.Tensor)]
    parts = [*whole, *(part for pool in pools for part in coded(pool))]
    return len(zstandard.compress(b"".join(raw(part) for part in parts)))
