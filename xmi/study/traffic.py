"""What a study would send to a host, counted from the same lists of prompts that it runs; nothing is sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from PIL import Image

from xmi.kernels import lens_kernel, next_token_kernel, residual_kernel, sweep_kernel
from xmi.prompt import Prompts, Task, free_prompt
from xmi.study.experiments import registry
from xmi.study.experiments.experiment import Forward
from xmi.study.grid import cells_for
from xmi.study.plan import Plan
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

    Sweeps are taken to be packed, which a request for the first of each kind proves. Bytes are those of the compressed
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
            found += count.request(sent)
    return found


class _Count:
    """Counts the requests of one model, cell by cell in the order of the study."""

    def __init__(self, vlm: VLM) -> None:
        self.vlm = vlm
        self._proven: set[tuple[bool, bool]] = set()

    def checks(self) -> Traffic:
        """One token, the proof on two texts, and the same prompt with two pictures if the model sees."""
        if self.vlm.encoder.processor is None:
            return Traffic(2, 2 * self.code)
        _, image = self._sizes(free_prompt("<image>Q:\nA:", [Image.new("RGB", (112, 112))]))
        return Traffic(3, 3 * self.code + 2 * image)

    def rounds(self, given: Iterable[Sequence[Forward]]) -> Iterator[Sequence[Forward]]:
        """The requests of a cell: its rounds, and before them one for each kind of sweep not yet seen to be packed."""
        for sent in given:
            for sweep in (one for one in sent if one.sets):
                kind = sweep.tokens > 1, any(prompt.images for prompt in sweep.prompts)
                if kind not in self._proven:
                    yield [Forward(sweep.prompts[:4])]  # with one vector at two layers
                self._proven.add(kind)
            if sent:
                yield sent

    def request(self, sent: Iterable[Forward]) -> Traffic:
        """One request: equal images are in it once, and repeated text takes no room when it is compressed."""
        up, images = self.code, dict[str, int]()
        for one in sent:
            text, image = self._sizes(one.prompts)
            numbers = 0 if one.shares else one.sets * one.layers * self.vlm.backbone.d_model
            up += len(one.prompts) * text + 4 * numbers
            images |= {str(shown): image for prompt in one.prompts for shown in prompt.images}
        return Traffic(1, up + sum(images.values()))

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
