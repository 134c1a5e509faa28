"""The object that `xmi.load` returns: a model and everything xmi does with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xmi.errors import ModelError, PromptError, VectorError
from xmi.kernels import next_token_kernel, residual_kernel, sweep_kernel
from xmi.lens import depths, logit_lens
from xmi.measure import Answers, LensReading, Phases, Transfer, paper_hit, strict_hit
from xmi.model import Backbone, Engine, load_checkpoint
from xmi.progress import track
from xmi.prompt import Batch, Encoder, Prompt, Prompts, Template
from xmi.vector import Residuals, TaskVector, VectorCard, check_fits, versions

MAX_COPIES = 256
"""How many copies of the last token one forward carries at most; more vectors are split over forwards."""


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
            tool.tokenizer, tool.processor, max_length=engine.max_length, positions=engine.wants_positions
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
        kept: list[tuple[torch.Tensor, ...]] = []
        for batch in self._batches(prompts, "answering"):
            targets = self._answer_ids(batch.prompts, prompts.template)
            inputs = self.engine.forward(batch.inputs)
            kept.append((*next_token_kernel(self.engine.envoy, inputs, targets, 1), targets))
        ids, log_probability, rank, wanted = (torch.cat(column) for column in zip(*kept, strict=True))
        return self._answers(prompts, ids[:, 0], log_probability, rank, wanted)

    def lens(self, prompts: Prompts, *, slot: str = "last", k: int = 5) -> LensReading:
        """Top tokens of every depth at a slot, by the logit lens.

        Args:
            prompts: The prompts.
            slot: Where to read.
            k: Tokens per depth.

        Returns:
            Tokens and probabilities [prompt, depth, k]; depth `embed` is the input of block 0.
        """
        tokens: list[tuple[tuple[str, ...], ...]] = []
        probabilities = []
        for batch in self._batches(prompts, "reading the lens"):
            values = logit_lens(self.engine, batch.inputs, batch.columns(slot), [[] for _ in batch.prompts], k)
            tokens += [tuple(tuple(self._decode(i) for i in depth) for depth in row) for row in values.ids.tolist()]
            probabilities.append(values.probabilities)
        return LensReading(depths(self.backbone.n_layers), tuple(tokens), np.concatenate(probabilities), slot)

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
        words = tuple(task_words) or prompts.task_words
        template = prompts.template
        task = set(self.encoder.word_ids(words, template.delimiter))
        if not task:
            raise PromptError(
                f"No task words to look for in {prompts.task or 'the prompts'}: pass task_words=['capital'] or so."
            )
        mass, rank, tops = [], [], []
        for batch in self._batches(prompts, "decoding phases"):
            columns = batch.columns(slot)
            sets = []
            for row, answer in enumerate(self._answer_ids(batch.prompts, template).tolist()):
                own = int(batch.inputs["input_ids"][row, columns[row]])
                given = {own, *self.encoder.word_ids((batch.prompts[row].input,), template.prefix)}
                sets.append([sorted(given - task - {answer}), sorted(task - {answer}), [answer]])
            values = logit_lens(self.engine, batch.inputs, columns, sets, 1)
            mass.append(values.mass)
            rank.append(values.rank)
            tops.append(values.ids[..., 0])
        label = f"{prompts.task} · {prompts.specification}" if prompts.task else prompts.specification
        top = np.concatenate(tops)
        share = tuple(self._share(top[:, i]) for i in range(top.shape[1]))
        return Phases(label, depths(self.backbone.n_layers), np.concatenate(mass), np.concatenate(rank), share)

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
        named = _named(vectors)
        for vector in named.values():
            check_fits(
                vector,
                n_layers=self.backbone.n_layers,
                d_model=self.backbone.d_model,
                template=to.template.hash,
                model=self.name,
            )
        chosen = _layers(layers, self.backbone.n_layers)
        if self.engine.report is not None and not self.engine.report.causal:
            raise ModelError(
                f"{self.name} is not causal, so one forward cannot hold many patched runs; it is not supported yet."
            )
        stack = torch.stack([v.values[list(chosen)] for v in named.values()])
        per_forward = max(1, MAX_COPIES // len(chosen))
        rows: list[tuple[torch.Tensor, ...]] = []
        for batch in self._batches(to, "patching"):
            targets = self._answer_ids(batch.prompts, to.template)
            parts = [self._sweep(batch, group, chosen, targets) for group in torch.split(stack, per_forward)]
            clean = tuple(value[:, :1] for value in parts[0])
            joined = (torch.cat([c, *(p[i][:, 1:] for p in parts)], 1) for i, c in enumerate(clean))
            rows.append((*joined, targets))
        ids, log_probability, rank, wanted = (torch.cat(column) for column in zip(*rows, strict=True))
        clean_answers = self._answers(to, ids[:, 0], log_probability[:, 0], rank[:, 0], wanted)
        shape = (len(to), len(named), len(chosen))
        ids, log_probability, rank = (v[:, 1:].reshape(shape).permute(1, 2, 0) for v in (ids, log_probability, rank))
        predicted = [[[self._decode(i) for i in layer] for layer in source] for source in ids.tolist()]
        hits = [[[paper_hit(t, p.answer or "") for t, p in zip(row, to, strict=True)] for row in s] for s in predicted]
        return Transfer(
            sources=tuple(named),
            layers=tuple(chosen),
            tasks=tuple(p.task for p in to),
            units=tuple(p.unit for p in to),
            answers=tuple(p.answer or "" for p in to),
            predicted=tuple(tuple(tuple(row) for row in source) for source in predicted),
            log_probability=log_probability.numpy(),
            rank=rank.numpy(),
            paper=np.array(hits),
            strict=(ids == wanted).numpy(),
            clean=clean_answers,
        )

    def _sweep(
        self, batch: Batch, vectors: torch.Tensor, layers: Sequence[int], targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        inputs = self.engine.forward(batch.inputs, keep=vectors.shape[0] * len(layers) + 1)
        ids, log_probability, rank = sweep_kernel(
            self.engine.envoy, inputs, self.engine.paths, vectors, list(layers), targets, 1
        )
        return ids[..., 0], log_probability, rank

    def _batches(self, prompts: Prompts, doing: str) -> Iterator[Batch]:
        starts = range(0, len(prompts), self.batch_size)
        if not starts:
            raise PromptError("There are no prompts.")
        for start in track(starts, f"{self.name}: {doing}"):
            yield self.encode(prompts[start : start + self.batch_size])

    def _answer_ids(self, prompts: Sequence[Prompt], template: Template) -> torch.Tensor:
        found = []
        for number, prompt in enumerate(prompts):
            if not prompt.answer:
                raise PromptError(f"Prompt {number} has no answer to compare with: {prompt.text[-60:]!r}")
            found.append(self.encoder.first_token(template.delimiter, prompt.answer))
        return torch.tensor(found)

    def _answers(
        self,
        prompts: Prompts,
        ids: torch.Tensor,
        log_probability: torch.Tensor,
        rank: torch.Tensor,
        wanted: torch.Tensor,
    ) -> Answers:
        predicted = tuple(self._decode(i) for i in ids.tolist())
        pairs = list(zip(predicted, prompts, strict=True))
        return Answers(
            prompts=tuple(p.text for p in prompts),
            tasks=tuple(p.task for p in prompts),
            units=tuple(p.unit for p in prompts),
            answers=tuple(p.answer or "" for p in prompts),
            predicted=predicted,
            log_probability=log_probability.numpy(),
            rank=rank.numpy(),
            paper=np.array([paper_hit(text, p.answer or "") for text, p in pairs]),
            strict=np.array([strict_hit(a, b) for a, b in zip(ids.tolist(), wanted.tolist(), strict=True)]),
        )

    def _share(self, ids: np.ndarray[Any, Any]) -> tuple[tuple[str, float], ...]:
        """The most frequent top tokens of a depth, with their share."""
        counted = Counter(self._decode(int(i)) for i in ids).most_common(5)
        return tuple((token, count / len(ids)) for token, count in counted)

    def _decode(self, token: int) -> str:
        return str(self.encoder.tokenizer.decode([token]))


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


def _named(vectors: TaskVector | Sequence[TaskVector] | Mapping[str, TaskVector]) -> dict[str, TaskVector]:
    if isinstance(vectors, TaskVector):
        vectors = [vectors]
    if isinstance(vectors, Mapping):
        named = dict(vectors)
    else:
        named = {v.card.specification: v for v in vectors}
        if len(named) < len(vectors):
            names = [v.card.specification for v in vectors]
            raise VectorError(f"Several vectors share a name ({', '.join(names)}): pass a mapping {{name: vector}}.")
    if not named:
        raise VectorError("There are no vectors to transfer.")
    return named


def _layers(layers: Sequence[int] | None, count: int) -> tuple[int, ...]:
    chosen = tuple(range(count)) if layers is None else tuple(layers)
    wrong = [i for i in chosen if not 0 <= i < count]
    if not chosen or wrong or len(set(chosen)) < len(chosen):
        raise VectorError(f"Cannot patch layers {list(chosen)}: give distinct layers from 0 to {count - 1}.")
    return chosen
