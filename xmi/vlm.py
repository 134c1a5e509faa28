"""The object that `xmi.load` returns: a model and everything xmi does with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from xmi.eager import ActivationCache, Generation, generate, hooked, run_with_cache
from xmi.eager.run import Hooks, Names, run
from xmi.errors import ModelError, PromptError
from xmi.kernels import ResidPost, residual_kernel
from xmi.lens import read_lens, read_phases
from xmi.measure import Answers, LensReading, Phases, Transfer
from xmi.model import Backbone, CheckReport, Engine, load_checkpoint
from xmi.progress import track
from xmi.prompt import Batch, Encoder, PromptLike, Prompts, as_prompts, free_prompt, patch_grid
from xmi.vector import Residuals, TaskVector, VectorCard, answer, name_vectors, transfer, versions


class VLM:
    """A vision-language model, or a plain language model, under study.

    Attributes:
        engine: The checked model and its nnsight envoy.
        encoder: Prompts to inputs.
        batch_size: Prompts per forward.
    """

    def __init__(self, engine: Engine, *, batch_size: int = 16) -> None:
        """Wraps an engine; users call `xmi.load`."""
        self.engine = engine
        self.batch_size = batch_size
        tool = engine.checkpoint
        self.encoder = Encoder(
            tool.tokenizer,
            tool.processor,
            max_length=engine.max_length,
            positions=engine.wants_positions,
            token_types="token_type_ids" in engine.arguments,
            patch_grid=patch_grid(engine.model.config),
        )

    @property
    def name(self) -> str:
        """What was loaded."""
        return self.engine.checkpoint.name

    @property
    def revision(self) -> str:
        """Commit or content hash of what was loaded."""
        return self.engine.checkpoint.revision

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

    @property
    def resid_post(self) -> ResidPost:
        """The residual stream after each block, for use inside `trace`: `vlm.resid_post[5]`, to read and to write."""
        return ResidPost(self.layers)

    def trace(self, prompt: PromptLike | Batch, **options: Any) -> Any:
        """Opens a raw nnsight trace on a prompt (`with vlm.trace(prompt): ...`)."""
        inputs = self.engine.forward(self.encode(prompt).inputs)
        inputs.pop("logits_to_keep", None)
        return self.engine.envoy.trace(**inputs, **options)

    def run_with_cache(
        self,
        prompt: PromptLike | Batch,
        *,
        names: Names | None = None,
        positions: str | Sequence[str] | None = None,
        device: str | torch.device | None = None,
        padding_side: Literal["left", "right"] = "left",
    ) -> tuple[Float[torch.Tensor, "batch position vocab"], ActivationCache]:
        """Runs the model and keeps activations, as TransformerLens does; images and batches included.

        Args:
            prompt: Text, a prompt, or several (images stand in prompts: `xmi.free_prompt("Q:<image>", [image])`).
            names: Which hooks: full names (`blocks.5.hook_resid_post`), short ones that mean all layers
                (`resid_post`, `z`), or a predicate; by default all but attention patterns. Patterns switch to eager
                attention for this call, with a warning.
            positions: Slots to keep (`"last"`, `["query.delimiter", "last"]`), of activations and logits alike; by
                default all positions.
            device: Where activations are kept; by default where they arise.
            padding_side: Side on which shorter prompts of a batch are padded.

        Returns:
            Logits [batch, position, vocab], and the activations by name.

        Raises:
            HookError: A name that the model does not have, or NaN in an activation.
            SlotError: A prompt lacks the slot.
        """
        batch = self.encode(prompt, padding_side=padding_side)
        card = {
            "model": self.name,
            "revision": self.revision,
            "dtype": str(self.engine.dtype).removeprefix("torch."),
            "n_layers": self.backbone.n_layers,
            "prompts": [p.text for p in batch.prompts],
            "tokens": [list(row) for row in batch.tokens],
            "positions": positions,
            "padding_side": padding_side,
            "versions": versions(),
        }
        return run_with_cache(self.engine, self.report.anatomy, batch, names, positions, device, card)

    def run_with_hooks(
        self, prompt: PromptLike | Batch, *, fwd_hooks: Hooks, padding_side: Literal["left", "right"] = "left"
    ) -> Float[torch.Tensor, "batch position vocab"]:
        """Runs the model with hook functions, as TransformerLens does.

        Args:
            prompt: Text, a prompt, or several.
            fwd_hooks: Pairs of names (as in `run_with_cache`) and a function of the activation and its `Hook`, which
                returns what takes the activation's place, or None.
            padding_side: Side on which shorter prompts of a batch are padded.

        Returns:
            Logits of all positions.

        Raises:
            HookError: An unknown name, or a function that returns another shape or dtype, or NaN.
        """
        batch = self.encode(prompt, padding_side=padding_side)
        with self.hooks(fwd_hooks):
            return run(self.engine, batch)

    @contextmanager
    def hooks(self, fwd_hooks: Hooks) -> Iterator[VLM]:
        """Hooks that are active for every forward inside the `with` block: `run_with_cache`, `generate`, the model.

        Args:
            fwd_hooks: As in `run_with_hooks`.

        Raises:
            HookError: As in `run_with_hooks`; also if something inside opens an nnsight trace (task vectors,
                transfers), because a trace reads a module's output before hooks on it have run.
        """
        with hooked(self.engine, self.report.anatomy, fwd_hooks):
            yield self

    def generate(self, prompt: PromptLike | Batch, *, max_new_tokens: int = 20, **options: Any) -> Generation:
        """Continues prompts with the model's own `generate` (greedily, unless options say otherwise).

        Inside `with vlm.hooks(...)` the hooks see the prompt first and then one new token at a time.

        Args:
            prompt: Text, a prompt, or several.
            max_new_tokens: How many tokens at most.
            **options: Handed to transformers' `generate`.

        Returns:
            The continuations as texts and tokens.
        """
        return generate(self.engine, self.encode(prompt), {"max_new_tokens": max_new_tokens, **options})

    @cached_property
    def report(self) -> CheckReport:
        """The self-check: what was proven, which hooks there are, what deviates.

        Raises:
            ModelError: The check fails, or the model has no weights.
        """
        return self.check(again=False)

    def check(self, *, again: bool = True) -> CheckReport:
        """Runs the self-check.

        Args:
            again: Check anew even if the same files were checked before under the same versions.

        Returns:
            The report.

        Raises:
            ModelError: A check fails; it says which, where and by how much.
        """
        look = self._pictures if self.encoder.processor is not None else None
        found = self.engine.examine(look, again=again)
        self.__dict__["report"] = found  # what `report` would find later
        return found

    @property
    def hook_names(self) -> tuple[str, ...]:
        """Names of all hooks of this model, in the order of execution."""
        return tuple(self.report.anatomy.points)

    def describe(self) -> str:
        """Returns what xmi found in the model, one fact per line."""
        b = self.backbone
        kind = "image-text-to-text" if self.encoder.processor is not None else "text only"
        lines = [
            f"{self.name} ({type(self.model).__name__}, {kind}), revision {self.revision}",
            f"backbone {b.decoder or 'model'}: {b.n_layers} layers ({b.layers}), width {b.d_model}",
            f"readout {b.norm} -> {b.head}, scale {b.scale:g}, soft-capping {b.softcap}",
        ]
        if not self.engine.dispatched:
            return "\n".join([*lines, "weights not loaded (meta device): not checked"])
        return "\n".join([*lines, *self.report.lines()])

    def _pictures(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """One prompt with a picture and with a blank one, for the self-check."""
        noise = np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8)
        pictures = (Image.fromarray(noise), Image.new("RGB", (112, 112), (128, 128, 128)))
        one, two = (self.encode(free_prompt("<image>Q:\nA:", [p])).inputs for p in pictures)
        return self.engine.place(one), self.engine.place(two)

    def encode(self, prompt: PromptLike | Batch, *, padding_side: Literal["left", "right"] = "left") -> Batch:
        """Encodes prompts into one batch that knows every token's role.

        Args:
            prompt: Text, a prompt, or several; a batch that is encoded already is returned as it is.
            padding_side: Side on which shorter prompts are padded.

        Raises:
            PromptError: No prompt, or one that cannot be encoded.
        """
        if isinstance(prompt, Batch):
            return prompt
        return self.encoder.encode(as_prompts(prompt), padding_side=padding_side)

    def residuals(self, prompts: Prompts, *, slot: str = "last") -> Residuals:
        """Reads the residual stream after every block at a slot of every prompt.

        Args:
            prompts: The prompts.
            slot: A named position, by default the last token (the delimiter that precedes the answer).

        Returns:
            float32 values [prompt, layer, d_model] with their card.

        Raises:
            SlotError: A prompt lacks the slot.
        """
        parts = []
        for batch in self._batches(prompts, "reading residuals"):
            inputs, columns = self.engine.reading(batch.inputs, batch.columns(slot))
            parts.append(residual_kernel(self.engine.envoy, inputs, self.engine.paths, columns))
        card = VectorCard(
            model=self.name,
            revision=self.revision,
            dtype=str(self.engine.dtype).removeprefix("torch."),
            task=prompts.task,
            specification=prompts.specification,
            shots=prompts.shots,
            seed=prompts.seed,
            n=len(prompts),
            slot=slot,
            template=prompts.template.hash,
            versions=versions(),
        )
        return Residuals(torch.cat(parts), card)

    def task_vector(self, prompts: Prompts, *, slot: str = "last") -> TaskVector:
        """The mean over prompts of the residual at a slot, at every layer.

        Args:
            prompts: Prompts that specify one task, by examples or instruction.
            slot: Where to read, by default the last token.

        Returns:
            Values [layer, d_model] with their card.

        Source: Luo, Darrell and Bar, ICML 2025, section 3.
        """
        return self.residuals(prompts, slot=slot).mean()

    def answers(self, prompts: Prompts) -> Answers:
        """The model's next token after each prompt, scored against the labels.

        Raises:
            PromptError: A prompt has no label.
        """
        return answer(self.engine, self.encoder, prompts, self._batches(prompts, "answering"))

    def lens(self, prompts: Prompts, *, slot: str = "last", k: int = 5) -> LensReading:
        """Top tokens of every depth at a slot, by the logit lens.

        Args:
            prompts: The prompts.
            slot: Where to read.
            k: Tokens per depth.

        Returns:
            Tokens and probabilities [prompt, depth, k]; depth `embed` is the input of block 0.
        """
        return read_lens(self.engine, self.encoder, self._batches(prompts, "reading the lens"), slot, k)

    def phases(self, prompts: Prompts, *, task_words: Sequence[str] = (), slot: str = "last") -> Phases:
        """Follows input, task and answer tokens through the layers at a slot.

        The input set holds the slot's own token and the beginning of the query's input; the task set the beginnings
        of the task words; the answer set the label's first token. A token in several sets counts for the later phase.

        Args:
            prompts: Prompts with labels, usually ICL prompts.
            task_words: Words that name the task; by default the task's own.
            slot: Where to read.

        Returns:
            Probability mass and rank of the three sets per prompt and depth.

        Raises:
            PromptError: No task words, or none has a token of its own; or a prompt without label.

        Source: Luo, Darrell and Bar, ICML 2025, section 4.
        """
        batches = self._batches(prompts, "decoding phases")
        return read_phases(self.engine, self.encoder, prompts, batches, tuple(task_words), slot)

    def transfer(
        self,
        vectors: TaskVector | Sequence[TaskVector] | Mapping[str, TaskVector],
        to: Prompts,
        *,
        layers: Sequence[int] | None = None,
        slot: str = "last",
        mode: str = "overwrite",
        strength: float = 1.0,
        max_new_tokens: int = 1,
    ) -> Transfer:
        """Patches vectors into queries, after every layer: by default into the last token of context-free ones.

        All vectors and layers of a batch, and the clean run, share as few forwards as their tokens fit in (the packed
        sweep), exactly equal to patching each apart. The first time that is compared with plain runs; a model on which
        it does not hold (attention that is not causal, linear attention, convolutions between tokens) gets a row for
        every patched run instead, with a warning.

        Args:
            vectors: One vector, several (named by their specification), or a mapping from name to vector.
            to: The queries, with labels.
            layers: After which blocks to patch; by default all. Source and target layer are the same.
            slot: Where to patch: a named position, by default the last token.
            mode: `overwrite` the residual, `add` (residual + strength * vector), or `interpolate` ((1 - strength) *
                residual + strength * vector).
            strength: See `mode`.
            max_new_tokens: How many tokens to read, greedily, every new one with the patch in place. With more than
                one, `continuations` holds the texts and `accuracy(score="whole")` scores whole labels.

        Returns:
            The answers of every source at every layer, and without a patch.

        Raises:
            VectorError: A vector of another shape or template, or with NaN; two vectors of one name; no or unknown
                layers; an unknown mode.
            SlotError: A query lacks the slot.

        Source: Luo, Darrell and Bar, ICML 2025, section 3 (xPatch).
        """
        named = name_vectors(vectors)
        batches = self._batches(to, "patching")
        return transfer(
            self.engine,
            self.encoder,
            named,
            to,
            batches,
            layers,
            slot=slot,
            mode=mode,
            strength=strength,
            max_new_tokens=max_new_tokens,
        )

    def _batches(self, prompts: Prompts, doing: str) -> Iterator[Batch]:
        starts = range(0, len(prompts), self.batch_size)
        if not starts:
            raise PromptError("There are no prompts.")
        for start in track(starts, f"{self.name}: {doing}"):
            part = prompts[start : start + self.batch_size]
            self._require_images(part)
            yield self.encode(part)

    def _require_images(self, prompts: Prompts) -> None:
        """Refuses prompts without an image where some blocks would not run."""
        if self.encoder.processor is None or all(p.images for p in prompts):
            return
        if skipped := self.report.anatomy.conditional:
            raise ModelError(
                f"{self.name} skips its blocks {list(skipped)} without an image, so their residuals do not exist: give "
                "every prompt an image, or read other blocks with run_with_cache."
            )


def load(
    source: str | Path | torch.nn.Module,
    *,
    processor: Any | None = None,
    revision: str | None = None,
    dtype: torch.dtype | str = "auto",
    device: str | torch.device | None = None,
    device_map: str | dict[str, Any] | None = None,
    quantization: str | Any | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    check: bool = True,
    batch_size: int = 16,
) -> VLM:
    """Loads a vision-language model or a plain causal language model.

    Args:
        source: An embedded model (`organism`, `organism-llm`, `organism-control`), a folder, a Hub id, or a loaded
            module (with `processor`).
        processor: Processor or tokenizer in place of the checkpoint's own.
        revision: Hub revision.
        dtype: A torch dtype, its name, or `auto` (float32 on a CPU, the checkpoint's own on a GPU).
        device: Where the model goes; by default a GPU if there is one. `meta` loads configuration and processor
            only: the model can be described and prompts encoded, nothing computed.
        device_map: Spreads the model over devices, as in transformers (`auto`); needs accelerate.
        quantization: `8bit` or `4bit` (needs bitsandbytes), or a quantisation configuration of transformers.
        attn_implementation: Passed on to transformers.
        trust_remote_code: Run code that comes with the checkpoint.
        check: Prove on a few tokens, and on one image, that everything was found rightly. Remembered per checkpoint
            and library versions, so it costs time once; `False` puts it off until something needs its findings.
        batch_size: Prompts per forward.

    Returns:
        The model under study.

    Raises:
        ModelError: It cannot be loaded, is no autoregressive decoder, or fails the self-check.
    """
    checkpoint = load_checkpoint(
        source,
        processor=processor,
        revision=revision,
        dtype=dtype,
        device=device,
        device_map=device_map,
        quantization=quantization,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
    )
    vlm = VLM(Engine.start(checkpoint), batch_size=batch_size)
    if check and vlm.engine.dispatched:
        _ = vlm.report
    return vlm
