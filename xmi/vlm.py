"""The object that `xmi.load` returns: a model and everything xmi does with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from xmi.errors import PromptError
from xmi.kernels import residual_kernel
from xmi.lens import read_lens, read_phases
from xmi.measure import Answers, LensReading, Phases, Transfer
from xmi.model import Backbone, Engine, load_checkpoint
from xmi.progress import track
from xmi.prompt import Batch, Encoder, Prompt, Prompts
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

    def trace(self, prompts: Prompts | Sequence[Prompt], **options: Any) -> Any:
        """Opens a raw nnsight trace on encoded prompts (`with vlm.trace(prompts): ...`)."""
        inputs = self.engine.forward(self.encode(prompts).inputs)
        inputs.pop("logits_to_keep", None)
        return self.engine.envoy.trace(**inputs, **options)

    def describe(self) -> str:
        """Returns what xmi found in the model, one fact per line."""
        b, report = self.backbone, self.engine.report
        kind = "image-text-to-text" if self.encoder.processor is not None else "text only"
        lines = [
            f"{self.name} ({type(self.model).__name__}, {kind}), revision {self.revision}",
            f"backbone {b.decoder}: {b.n_layers} layers ({b.layers}), width {b.d_model}",
            f"readout {b.norm} -> {b.head}, scale {b.scale:g}, soft-capping {b.softcap}",
        ]
        if report is not None:
            causal = (
                "causal" if report.causal else f"not causal (earlier residuals move by {report.causality_error:.1e})"
            )
            lines.append(f"self-check: readout error {report.readout_error:.1e}, all layers live, {causal}")
        return "\n".join(lines)

    def encode(self, prompts: Prompts | Sequence[Prompt]) -> Batch:
        """Encodes prompts into one left-padded batch that knows every token's role."""
        return self.encoder.encode(tuple(prompts))

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
            inputs = self.engine.forward(batch.inputs)
            parts.append(residual_kernel(self.engine.envoy, inputs, self.engine.paths, batch.columns(slot)))
        card = VectorCard(
            model=self.name,
            revision=self.revision,
            dtype=str(next(self.model.parameters()).dtype).removeprefix("torch."),
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
    ) -> Transfer:
        """Patches vectors into the last token of context-free queries, after every layer.

        All vectors and layers of a batch share one forward (the packed sweep), exactly equal to patching each
        apart. The clean run comes out of the same forward.

        Args:
            vectors: One vector, several (named by their specification), or a mapping from name to vector.
            to: The queries, with labels.
            layers: After which blocks to patch; by default all. Source and target layer are the same.

        Returns:
            The answers of every source at every layer, and without a patch.

        Raises:
            VectorError: A vector of another shape or template, or with NaN; two vectors of one name.
            ModelError: The model's attention is not causal, so that the packed sweep would be wrong.

        Source: Luo, Darrell and Bar, ICML 2025, section 3 (xPatch).
        """
        named = name_vectors(vectors)
        batches = self._batches(to, "patching")
        return transfer(self.engine, self.encoder, named, to, batches, layers)

    def _batches(self, prompts: Prompts, doing: str) -> Iterator[Batch]:
        starts = range(0, len(prompts), self.batch_size)
        if not starts:
            raise PromptError("There are no prompts.")
        for start in track(starts, f"{self.name}: {doing}"):
            yield self.encode(prompts[start : start + self.batch_size])


def load(
    source: str | Path | torch.nn.Module,
    *,
    processor: Any | None = None,
    revision: str | None = None,
    dtype: torch.dtype | str = "auto",
    device: str | torch.device | None = None,
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
        device: Where the model goes; by default a GPU if there is one.
        attn_implementation: Passed on to transformers.
        trust_remote_code: Run code that comes with the checkpoint.
        check: Prove on a few tokens that the backbone was found rightly (recommended; takes four tiny forwards and
            one per layer).
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
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
    )
    return VLM(Engine.start(checkpoint, check=check), batch_size=batch_size)
