"""A model, its prompts and its batches: what every verb starts from.

A verb is a function of a session, in the room that it belongs to; `xmi.vlm.VLM` binds it as a method. It reads

    def verb(session: Session, prompts: PromptLike, *, slot: str = "last") -> Result:
        with session.prepared(prompts, "doing so") as (several, batches):
            calls = ((batch.columns(slot), (session.engine.forward(batch.inputs), ...)) for batch in batches)
            for columns, found in session.each(kernel, calls):
                ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, groupby
from typing import Any, Literal, NoReturn, TypeVar

import numpy as np
import torch
from PIL import Image

from xmi.errors import ModelError, PromptError
from xmi.model import Backbone, CheckReport, Engine, Guard, once
from xmi.progress import track
from xmi.prompt import (
    Batch,
    Encoder,
    Prompt,
    PromptLike,
    Prompts,
    as_prompts,
    flatten,
    free_prompt,
    is_encoded,
    patch_grid,
)
from xmi.prompt.blame import images_named
from xmi.shown import Shown
from xmi.versions import versions

K = TypeVar("K")
R = TypeVar("R")


class Session(Shown):
    """A model at work: its engine, its encoder, and how prompts become batches.

    Attributes:
        engine: The checked model and its nnsight envoy.
        batch_size: Prompts per forward.
        kin: Revisions of models whose vectors are meant here, since they were compared with this one.
    """

    def __init__(self, engine: Engine, *, batch_size: int = 16) -> None:
        """Wraps an engine; users call `xmi.load`."""
        self.engine = engine
        self.batch_size = batch_size
        self.kin: set[str] = set()

    def _facts(self) -> dict[str, Any]:
        count = sum(p.numel() for p in self.model.parameters())
        return {
            "name": self.name,
            "parameters": f"{count / 1e9:.2f}B" if count >= 1e8 else f"{count / 1e6:.2f}M",
            "dtype": self.dtype,
            "device": str(self.engine.device),
            "depths": self.backbone.n_layers + 1,
            "d_model": self.backbone.d_model,
            "revision": self.revision,
        }

    @property
    def guard(self) -> Guard:
        """What lets one thread at a time run the model."""
        return self.engine.guard

    @once
    def encoder(self) -> Encoder:
        """Prompts to inputs; made when it is needed, since a host must be asked how it counts positions."""
        engine, tool = self.engine, self.engine.checkpoint
        return Encoder(
            tool.tokenizer,
            tool.processor,
            max_length=engine.max_length,
            positions=engine.wants_positions,
            token_types="token_type_ids" in engine.arguments,
            patch_grid=patch_grid(engine.model.config),
            vocabulary=engine.vocabulary,
        )

    def __reduce__(self) -> NoReturn:
        """Refuses to be pickled or copied, and to be sent to a host: a trace there takes along what its block names.

        Raises:
            ModelError: Always, or
            RemoteError: if the model is on a host.
        """
        self.engine.backend.require("pickling", self.name)
        raise ModelError(self.engine.stays)

    @property
    def name(self) -> str:
        """What was loaded."""
        return self.engine.checkpoint.name

    @property
    def revision(self) -> str:
        """Commit or content hash of what was loaded."""
        return self.engine.checkpoint.revision

    @property
    def dtype(self) -> str:
        """The precision that the model runs in: `float32`, `bfloat16`, ..."""
        return str(self.engine.dtype).removeprefix("torch.")

    @property
    def backbone(self) -> Backbone:
        """Where the language backbone is and how large."""
        return self.engine.backbone

    @property
    def model(self) -> torch.nn.Module:
        """The Hugging Face model itself."""
        return self.engine.checkpoint.model

    @property
    def layers(self) -> Any:
        """The envoys of the decoder blocks, for use inside `trace`."""
        envoy = self.engine.envoy
        for part in self.backbone.layers.split("."):
            envoy = getattr(envoy, part)
        return envoy

    @once
    def report(self) -> CheckReport:
        """The self-check: what was proven, which hooks there are, what deviates.

        Raises:
            ModelError: The check fails, or the model has no weights.
        """
        return self.check(again=False)

    def check(self, *, again: bool = True) -> CheckReport:
        """Runs the self-check.

        Args:
            again: Check again even if the same files were checked before under the same versions.

        Returns:
            The report.

        Raises:
            ModelError: A check fails; it says which, where and by how much.

        Examples:
            >>> report = vlm.check(again=False)
            >>> print(report.lines()[0])
            readout: equals the model's logits to 0.0e+00
        """
        look = self._pictures if self.encoder.processor is not None else None
        with self.guard:
            found = self.engine.examine(look, again=again)
            self.report = found
            return found

    def _pictures(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """One prompt with a picture and with a blank one, for the self-check."""
        noise = np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8)
        pictures = (Image.fromarray(noise), Image.new("RGB", (112, 112), (128, 128, 128)))
        one, two = (self.encode(free_prompt("<image>Q:\nA:", [p])).inputs for p in pictures)
        return self.engine.place(one), self.engine.place(two)

    def card(self, **more: Any) -> dict[str, Any]:
        """What a number came from: model, revision and precision, then more of it, then the versions."""
        facts = {"model": self.name, "revision": self.revision, "dtype": self.dtype}
        return {**facts, **more, "versions": versions()}

    def encode(self, prompt: PromptLike, *, padding_side: Literal["left", "right"] = "left") -> Batch:
        """Encodes prompts into one batch that knows every token's role.

        Args:
            prompt: Text; a prompt; a set or list of either; chat messages (`[{"role": "user", "content": ...}]`, with
                content as text or as parts of type `text` and `image`) or several lists of them, written by the model's
                own chat template; what its own processor or tokenizer encoded (a mapping with `input_ids`), of which
                labels are not known; or a batch, which is returned as it is. Every verb takes the same.
            padding_side: Side on which shorter prompts are padded.

        Raises:
            PromptError: No prompt, or one that cannot be encoded.

        Examples:
            >>> batch = vlm.encode(task.queries("image", n=2))
            >>> batch.inputs["input_ids"].shape  # prompt, token
            torch.Size([2, 15])
            >>> batch.columns("last")
            tensor([14, 14])
        """
        batch = self.accepted(prompt, padding_side)
        if batch is None:
            batch = self.encoder.encode(flatten(prompt, self.encoder.chat), padding_side=padding_side)
        return batch

    def accepted(self, prompt: PromptLike, padding_side: Literal["left", "right"] = "left") -> Batch | None:
        """A batch that was given, or made of what was encoded already; None of anything else.

        Raises:
            PromptError: Encoded inputs that this model does not take.
        """
        if isinstance(prompt, Batch) or not is_encoded(prompt):
            return prompt if isinstance(prompt, Batch) else None
        batch, tool = self.encoder.accept(prompt, padding_side), self.encoder.processor or self.encoder.tokenizer
        if unknown := set(batch.inputs) - self.engine.arguments - {*tool.model_input_names, "input_ids"}:
            raise PromptError(
                f"The encoded inputs hold {', '.join(sorted(map(str, unknown)))}, which {self.name} does not take."
            )
        return batch

    @contextmanager
    def encoded(self, prompt: PromptLike, *, padding_side: Literal["left", "right"] = "left") -> Iterator[Batch]:
        """What was given as one batch, for one forward; if that fails on an image, the error names it.

        Args:
            prompt: What `encode` takes.
            padding_side: Side on which shorter prompts are padded.

        Raises:
            PromptError: Prompts that cannot be encoded, that change each other's numbers, or with an image that the
                model cannot take.
        """
        batch = self._require_alike(self.encode(prompt, padding_side=padding_side))
        with images_named(self.engine, self.encoder, batch.prompts):
            yield batch

    @contextmanager
    def prepared(self, prompts: PromptLike, doing: str) -> Iterator[tuple[Prompts, Iterator[Batch]]]:
        """What was given as a set of prompts, and in batches that are padded on the left.

        Args:
            prompts: What `encode` takes.
            doing: What is done with them, for the progress bar.

        Raises:
            PromptError: As in `encoded`.
            ModelError: Prompts without an image where some blocks do not run without one.
        """
        batch = self.accepted(prompts)
        if batch is None:
            several = self.encoder.framed(as_prompts(prompts, self.encoder.chat))
            batches = self.batches(several, doing)
        else:
            self._require_images(batch.prompts)
            several, batches = as_prompts(batch.prompts), iter([self._require_alike(batch).padded("left")])
        with images_named(self.engine, self.encoder, several):
            yield several, batches

    def each(self, kernel: Callable[..., R], calls: Iterable[tuple[K, tuple[Any, ...]]]) -> list[tuple[K, R]]:
        """Runs a kernel on every batch, and returns its results, each with what is to be remembered of its batch.

        Args:
            kernel: A function of `xmi.kernels`.
            calls: What to remember of a batch, and the kernel's arguments after the model. They are made one by one,
                so that one batch at a time is in memory.

        Raises:
            ModelError: The kernel gave NaN.
        """
        kept: list[K] = []

        def arguments() -> Iterator[tuple[Any, ...]]:
            for note, given in calls:
                kept.append(note)
                yield given

        return list(zip(kept, self.engine.map(kernel, arguments()), strict=True))

    def batches(self, prompts: Prompts, doing: str) -> Iterator[Batch]:
        """Prompts in batches; of models that look at a batch's images at once, with as many images in every prompt."""
        counts = [len(prompt.images) for prompt in prompts]
        groups = [len(list(run)) for _, run in groupby(counts)] if self._mates(counts) else [len(prompts)]
        ends = list(accumulate(groups))
        parts = [
            (start, min(start + self.batch_size, end))
            for begin, end in zip([0, *ends], ends, strict=False)
            for start in range(begin, end, self.batch_size)
        ]
        for start, end in track(parts, f"{self.name}: {doing}"):
            part = prompts[start:end]
            self._require_images(part)
            yield from self._portions(part)

    def _portions(self, prompts: Prompts) -> Iterator[Batch]:
        """Prompts in one batch, or in several if together they are too much for one request to a host."""
        batch, start = self.encode(prompts), 0
        sizes = self.engine.backend.portions([prompt.images for prompt in prompts], batch.inputs)
        for size in sizes:
            yield batch if len(sizes) == 1 else self.encode(prompts[start : start + size])
            start += size

    def _mates(self, counts: Sequence[int]) -> bool:
        """Whether prompts with so many images change each other's numbers when they share a forward.

        Where blocks read images by attention of their own (Mllama), text before the first image attends to all image
        columns of the batch, of which there are as many as the prompt with most images has.
        """
        seeing = self.encoder.processor is not None and len(set(counts)) > 1
        return seeing and bool(self.report.anatomy.conditional)

    def _require_alike(self, batch: Batch) -> Batch:
        """Refuses a batch whose prompts change each other's numbers."""
        counts = [len(prompt.images) for prompt in batch.prompts]
        if self._mates(counts):
            raise PromptError(
                f"The prompts have {min(counts)} to {max(counts)} images, and in {self.name} text before an image sees "
                "the image columns of the whole batch, so that prompts would change each other's numbers: give prompts "
                "with as many images as each other in one call."
            )
        return batch

    def _require_images(self, prompts: Sequence[Prompt]) -> None:
        """Refuses prompts without an image where some blocks would not run."""
        if self.encoder.processor is None or all(p.images for p in prompts):
            return
        if skipped := self.report.anatomy.conditional:
            raise ModelError(
                f"{self.name} skips its blocks {list(skipped)} without an image, so their residuals do not exist: give "
                "every prompt an image, or read other blocks with run_with_cache."
            )
