"""The object that `xmi.load` returns: a model and everything xmi does with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from xmi.arguments import check_calls
from xmi.errors import ModelError, PromptError, RemoteError, VectorError
from xmi.hooks import ActivationCache, Generation, Hooks, Names, generate, hooked, run, run_with_cache
from xmi.hooks.blame import images_named
from xmi.kernels import ResidPost, residual_kernel
from xmi.lens import Lens, LogitLens, TunedLens, find_task_words, read_lens, read_phases, tune_lens
from xmi.lens.read import Said
from xmi.measure import Answers, LensReading, Phases, Transfer
from xmi.measure.base_comparison import BaseComparison
from xmi.measure.ensembling import EnsembleCurve
from xmi.measure.overriding import Overriding
from xmi.measure.task_words import TaskWords
from xmi.model import LOADING, Backbone, CheckReport, Engine, Guard, load_checkpoint, once
from xmi.model.adapter import find_adapter
from xmi.model.engine import wrap
from xmi.model.finite import ADVICE
from xmi.model.options import count
from xmi.model.source import hub_options, resolve
from xmi.names import INSTRUCTION
from xmi.progress import track
from xmi.prompt import (
    Batch,
    Encoder,
    Prompt,
    PromptLike,
    Prompts,
    Task,
    as_prompts,
    flatten,
    free_prompt,
    is_encoded,
    new_tokens,
    patch_grid,
)
from xmi.vector import Residuals, TaskVector, VectorCard, answer, name_vectors, score_answers, transfer, versions
from xmi.vector.base_comparison import base_comparison, check_shapes, usual_prompts
from xmi.vector.ensembling import ensembling
from xmi.vector.override import asked_prompts, contest, override

if TYPE_CHECKING:
    from xmi.remote import Served

ON_HOST = ("device", "dtype", "device_map", "quantization", "attn_implementation")
"""Options of `load` that a host decides."""


class VLM:
    """A vision-language model, or a plain language model, under study.

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

    @property
    def served(self) -> Served | None:
        """The host that runs the model, if it is not this machine."""
        return cast("Served | None", self.engine.host)

    def __reduce__(self) -> NoReturn:
        """Refuses to be pickled or copied, and to be sent to a host: a trace there takes along what its block names.

        Raises:
            ModelError: Always, or
            RemoteError: if the model is on a host.
        """
        if self.served is not None:
            raise RemoteError(
                "A trace on a host takes along every name in its block, and this model object cannot travel. Take what "
                "you read before the block: `resid = vlm.resid_post`, then `with vlm.trace(...): x = resid[3].save()`."
            )
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
    def _dtype(self) -> str:
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

    @property
    def resid_post(self) -> ResidPost:
        """The residual stream after each block, for use inside `trace`: `vlm.resid_post[5]`, to read and to write."""
        return ResidPost(self.layers)

    def trace(self, prompt: PromptLike, *, trust_host: bool = False, **options: Any) -> Any:
        """Opens a raw nnsight trace on a prompt (`with vlm.trace(prompt): ...`).

        Other threads wait while the block runs, so it must not wait for one that runs the same model.

        On a host the block travels with every name in it, so take what is read beforehand (`resid = vlm.resid_post`).
        What it saves may be tensors and builtins, and comes back as data.

        Args:
            prompt: The prompt.
            trust_host: Send it by nnsight's own means, which show progress and take anything that can be saved, but
                un-pickle what comes back: whoever runs the host can run code on this machine.
            **options: What nnsight's `trace` takes.

        Raises:
            RemoteError: Options ask for nnsight's own way to a host, which is not trusted.
            HookError: Hooks are active, or (when the block runs) the model is in the midst of a forward.
        """
        own = [name for name in ("remote", "blocking", "backend", "job_id", "verbose") if name in options]
        elsewhere = options.get("remote") not in (None, False, "local")
        if not trust_host and (elsewhere or (own and self.served is not None)):
            raise RemoteError(
                f"{', '.join(own)}: nnsight's own way to a host un-pickles what comes back, so that whoever runs the "
                "host can run code on this machine. Leave it out (load the model with remote=...; what is saved then "
                "comes back as data), or say trust_host=True."
            )
        inputs = self.engine.forward(self._require_alike(self.encode(prompt)).inputs)
        inputs.pop("logits_to_keep", None)
        if self.served is not None:  # without it nnsight would load the weights here
            options |= {"remote": self.served.host.url, **options} if trust_host else {"backend": self.served.backend()}
        return self.engine.trace(**inputs, **options)

    def run_with_cache(
        self,
        prompt: PromptLike,
        *,
        names: Names | None = None,
        positions: str | Sequence[str] | None = None,
        device: str | torch.device | None = None,
        padding_side: Literal["left", "right"] = "left",
        grad: bool = False,
    ) -> tuple[Float[torch.Tensor, "batch position vocab"], ActivationCache]:
        """Runs the model and keeps activations, as TransformerLens does; images and batches included.

        Args:
            prompt: What `encode` takes (images stand in prompts: `xmi.free_prompt("Q:<image>", image)`).
            names: Which hooks: full names (`blocks.5.hook_resid_post`), short ones that mean all layers
                (`resid_post`, `z`), or a predicate; by default all but attention patterns. Patterns switch to eager
                attention for this call, with a warning.
            positions: Slots to keep (`"last"`, `["query.delimiter", "last"]`), of activations and logits alike; by
                default all positions.
            device: Where activations are kept; by default where they arise.
            padding_side: Side on which shorter prompts of a batch are padded.
            grad: Record gradients. Activations at all positions (no `positions`, no `device`) are then the very tensors
                that the forward goes on with, so that `torch.autograd.grad(loss, cache["resid_post", 3])` is the
                gradient there.

        Returns:
            Logits [batch, position, vocab], and the activations by name.

        Raises:
            HookError: A name that the model does not have, or NaN in an activation.
            SlotError: A prompt lacks the slot.
        """
        batch = self._require_alike(self.encode(prompt, padding_side=padding_side))
        card = {
            "model": self.name,
            "revision": self.revision,
            "dtype": self._dtype,
            "n_layers": self.backbone.n_layers,
            "prompts": [p.text for p in batch.prompts],
            "tokens": [list(row) for row in batch.tokens],
            "positions": positions,
            "padding_side": padding_side,
            "versions": versions(),
        }
        with self._explained(batch.prompts):
            return run_with_cache(self.engine, self.report.anatomy, batch, names, positions, device, card, grad=grad)

    def run_with_hooks(
        self,
        prompt: PromptLike,
        *,
        fwd_hooks: Hooks = (),
        bwd_hooks: Hooks = (),
        grad: bool = False,
        padding_side: Literal["left", "right"] = "left",
    ) -> Float[torch.Tensor, "batch position vocab"]:
        """Runs the model with hook functions, as TransformerLens does.

        Args:
            prompt: What `encode` takes.
            fwd_hooks: Pairs of names (as in `run_with_cache`) and a function of the activation and its `Hook`, which
                returns what takes the activation's place, or None.
            bwd_hooks: The same for gradients: called with the gradient of what is backpropagated from the logits with
                respect to the activation, when `backward` comes by.
            grad: Record gradients, so that `logits[...].backward()` flows through the model and the hooks, to tensors
                that these bring in and to the model's parameters. Without it, and without `bwd_hooks`, none are.
            padding_side: Side on which shorter prompts of a batch are padded.

        Returns:
            Logits of all positions.

        Raises:
            HookError: What is not a list of such pairs, an unknown name, or a function that returns another shape or
                dtype, or NaN; or gradients are asked for and nothing has any.
        """
        batch = self._require_alike(self.encode(prompt, padding_side=padding_side))
        with hooked(self.engine, self.report.anatomy, fwd_hooks, bwd_hooks), self._explained(batch.prompts):
            return run(self.engine, batch, grad=grad or bool(bwd_hooks))

    @contextmanager
    def hooks(self, fwd_hooks: Hooks) -> Iterator[VLM]:
        """Hooks that are active for every forward inside the `with` block: `run_with_cache`, `generate`, the model.

        They act for the thread (or asyncio task) that opened the block, and for what it hands to `asyncio.to_thread`;
        what other threads run meanwhile is as if they were not there. A hook function is called in the midst of a
        forward: it must not run the model itself, nor wait for a thread that does.

        Args:
            fwd_hooks: As in `run_with_hooks`.

        Raises:
            HookError: As in `run_with_hooks`; also if something inside opens an nnsight trace (task vectors,
                transfers), because a trace reads a module's output before hooks on it have run.
        """
        with hooked(self.engine, self.report.anatomy, fwd_hooks):
            yield self

    def generate(self, prompt: PromptLike, *, max_new_tokens: int | None = None, **options: Any) -> Generation:
        """Continues prompts with the model's own `generate` (greedily, unless options say otherwise).

        Inside `with vlm.hooks(...)` the hooks see the prompt first and then one new token at a time.

        Args:
            prompt: What `encode` takes.
            max_new_tokens: How many tokens at most; by default 20, or what a `generation_config` among the options
                says.
            **options: Handed to transformers' `generate`: `num_beams`, `num_return_sequences`, `stop_strings`,
                `repetition_penalty`, ...

        Returns:
            The continuations as texts and tokens; `prompts` says which prompt each row continues.

        Raises:
            PromptError: An option that transformers does not know or that says something of the prompts, options that
                do not go together, or a prompt and new tokens that are longer than the model takes.
        """
        batch = self._require_alike(self.encode(prompt))
        with self._explained(batch.prompts):
            return generate(self.engine, batch, max_new_tokens, options)

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
            again: Check anew even if the same files were checked before under the same versions.

        Returns:
            The report.

        Raises:
            ModelError: A check fails; it says which, where and by how much.
        """
        look = self._pictures if self.encoder.processor is not None else None
        with self.guard:
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
        if self.served is not None:
            facts = ", ".join(f"{name} {value}" for name, value in self.served.facts.items() if value)
            lines.append(f"runs on {self.served.host.url} ({facts})")
        elif not self.engine.dispatched:
            return "\n".join([*lines, "weights not loaded (meta device): not checked"])
        return "\n".join([*lines, *self.report.lines()])

    def _pictures(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """One prompt with a picture and with a blank one, for the self-check."""
        noise = np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8)
        pictures = (Image.fromarray(noise), Image.new("RGB", (112, 112), (128, 128, 128)))
        one, two = (self.encode(free_prompt("<image>Q:\nA:", [p])).inputs for p in pictures)
        return self.engine.place(one), self.engine.place(two)

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
        """
        batch = self._accepted(prompt, padding_side)
        if batch is None:
            batch = self.encoder.encode(flatten(prompt, self.encoder.chat), padding_side=padding_side)
        return batch

    def _accepted(self, prompt: Any, side: Literal["left", "right"] = "left") -> Batch | None:
        """A batch that was given, or made of what was encoded already; None of anything else."""
        if isinstance(prompt, Batch) or not is_encoded(prompt):
            return prompt if isinstance(prompt, Batch) else None
        batch, tool = self.encoder.accept(prompt, side), self.encoder.processor or self.encoder.tokenizer
        if unknown := set(batch.inputs) - self.engine.arguments - {*tool.model_input_names, "input_ids"}:
            raise PromptError(
                f"The encoded inputs hold {', '.join(sorted(map(str, unknown)))}, which {self.name} does not take."
            )
        return batch

    def _asked(self, prompts: PromptLike, doing: str) -> tuple[Prompts, Iterator[Batch]]:
        """What was given, as a set of prompts and in batches that are padded on the left."""
        batch = self._accepted(prompts)
        if batch is None:
            several = as_prompts(prompts, self.encoder.chat)
            return several, self._batches(several, doing)
        self._require_images(batch.prompts)
        self._require_alike(batch)
        return as_prompts(batch.prompts), iter([batch.padded("left")])

    def _explained(self, prompts: Sequence[Prompt]) -> AbstractContextManager[None]:
        """Names the image that the model cannot take, if that is why a forward inside fails."""
        return images_named(self.engine, self.encoder, prompts)

    def residuals(self, prompts: PromptLike, *, slot: str = "last") -> Residuals:
        """Reads the residual stream after every block at a slot of every prompt.

        Args:
            prompts: The prompts.
            slot: A named position, by default the last token (the delimiter that precedes the answer).

        Returns:
            float32 values [prompt, layer, d_model] with their card.

        Raises:
            SlotError: A prompt lacks the slot.
        """
        return self.residuals_at(prompts, [slot])[slot]

    def residuals_at(self, prompts: PromptLike, slots: Sequence[str]) -> dict[str, Residuals]:
        """Reads several slots in the same forwards.

        Args:
            prompts: The prompts.
            slots: Named positions.

        Returns:
            What `residuals` returns, by slot.

        Raises:
            SlotError: A prompt lacks a slot.
        """
        several, values, _ = self._read(prompts, slots)
        return {slot: Residuals(values[:, i], self._card(several, slot)) for i, slot in enumerate(slots)}

    def vectors_at(
        self, prompts: PromptLike, slots: Sequence[str], *, keep: int = 0
    ) -> dict[str, tuple[TaskVector, Residuals]]:
        """Task vectors at several slots from the same forwards; means are taken where the model runs.

        Args:
            prompts: Prompts that specify one task.
            slots: Named positions.
            keep: How many of the prompts' own residuals to return beside their mean.

        Returns:
            By slot: the mean over all prompts, [layer, d_model], and the residuals of the first prompts.

        Raises:
            SlotError: A prompt lacks a slot.
        """
        several, values, [mean] = self._read(prompts, slots, keep)
        some = several[: len(values)]
        return {
            slot: (TaskVector(mean[i], self._card(several, slot)), Residuals(values[:, i], self._card(some, slot)))
            for i, slot in enumerate(slots)
        }

    def nested_vectors(self, prompts: PromptLike, sizes: Sequence[int], *, slot: str = "last") -> list[TaskVector]:
        """Task vectors of the first few prompts, of some more, ...: the mean over each number of them.

        Args:
            prompts: Prompts that specify one task.
            sizes: Numbers of prompts, rising.
            slot: Where to read.

        Raises:
            VectorError: The numbers do not rise from 1 or more to the number of prompts at most.
            SlotError: A prompt lacks the slot.
        """
        batch = self._accepted(prompts)
        several = as_prompts(prompts if batch is None else batch.prompts, self.encoder.chat)
        if not sizes or sizes[0] < 1 or sizes[-1] > len(several) or any(a >= b for a, b in pairwise(sizes)):
            raise VectorError(
                f"Means over {list(sizes)} of {len(several)} prompts: numbers must rise from 1 up to that."
            )
        whole = batch is not None and sizes[-1] == len(several)
        _, _, means = self._read(prompts if whole else several[: sizes[-1]], [slot], 0, sizes)
        return [TaskVector(mean[0], self._card(several[:size], slot)) for mean, size in zip(means, sizes, strict=True)]

    def _read(
        self, prompts: PromptLike, slots: Sequence[str], keep: int | None = None, sizes: Sequence[int] = ()
    ) -> tuple[
        Prompts, Float[torch.Tensor, "prompt slot layer d_model"], list[Float[torch.Tensor, "slot layer d_model"]]
    ]:
        """The prompts, residuals of the first or of all, and their means over the first so many, by default all."""
        several, batches = self._asked(prompts, "reading residuals")
        kept = len(several) if keep is None else keep
        wanted, starts, ends = tuple(sizes) or (len(several),), [0], list[list[int]]()

        def arguments() -> Iterator[tuple[Any, ...]]:
            for batch in batches:
                columns = torch.stack([batch.columns(slot) for slot in slots], 1)
                inputs, back = self.engine.reading(batch.inputs, columns)
                seen = starts[-1]
                ends.append(sorted({*(s - seen for s in wanted if seen < s < seen + len(batch)), len(batch)}))
                starts.append(seen + len(batch))
                yield inputs, self.engine.paths, back, max(0, kept - seen), ends[-1]

        with self._explained(several):
            values, sums = zip(*self.engine.map(residual_kernel, arguments()), strict=True)
        before, total = torch.tensor(0.0), dict[int, torch.Tensor]()
        for start, stops, part in zip(starts, ends, sums, strict=False):
            total |= {start + stop: before + some for stop, some in zip(stops, part, strict=True)}
            before = total[start + stops[-1]]
        if not bool(torch.isfinite(before).all()):
            layer = int((~torch.isfinite(before)).any(-1).any(0).nonzero()[0])
            raise ModelError(f"{self.name}: the residual stream is infinite at a slot after block {layer}. {ADVICE}")
        return several, torch.cat(values), [total[size] / size for size in wanted]

    def _card(self, prompts: Prompts, slot: str) -> VectorCard:
        return VectorCard(
            model=self.name,
            revision=self.revision,
            dtype=self._dtype,
            task=prompts.task,
            specification=prompts.specification,
            shots=prompts.shots,
            seed=prompts.seed,
            n=len(prompts),
            slot=slot,
            template=prompts.template.hash,
            versions=versions(),
        )

    def task_vector(self, prompts: PromptLike, *, slot: str = "last") -> TaskVector:
        """The mean over prompts of the residual at a slot, at every layer.

        Args:
            prompts: Prompts that specify one task, by examples or instruction.
            slot: Where to read, by default the last token.

        Returns:
            Values [layer, d_model] with their card.

        Source: Luo, Darrell and Bar, ICML 2025, section 3.
        """
        return self.vectors_at(prompts, [slot])[slot][0]

    def answers(self, prompts: PromptLike, *, max_new_tokens: int | None = None) -> Answers:
        """The model's next token after each prompt, scored against the labels.

        Where an item has several labels, a hit on any of them counts; log-probability and rank are those of the
        canonical (first) one. Prompts without a label are answered, too, but have no part in accuracies.

        Args:
            prompts: The prompts.
            max_new_tokens: As in `transfer`.

        Raises:
            PromptError: A label cannot be written with the model's tokens.
        """
        several, batches = self._asked(prompts, "answering")
        with self._explained(several):
            return answer(self.engine, self.encoder, several, batches, max_new_tokens)

    def lens(self, prompts: PromptLike, *, slot: str = "last", k: int = 5, lens: Lens | None = None) -> LensReading:
        """Top tokens of every depth at a slot, by the logit lens or another one.

        Args:
            prompts: The prompts.
            slot: Where to read.
            k: Tokens per depth.
            lens: The lens, by default the logit lens.

        Returns:
            Tokens and probabilities [prompt, depth, k]; depth `embed` is the input of block 0.

        Raises:
            ModelError: The lens was trained on another model.
        """
        several, batches = self._asked(prompts, "reading the lens")
        with self._explained(several):
            return read_lens(self.engine, self.encoder, batches, lens or LogitLens(), slot, k)

    def phases(
        self,
        prompts: PromptLike,
        *,
        task_words: Sequence[str] | TaskWords = (),
        slot: str = "last",
        lens: Lens | None = None,
    ) -> Phases:
        """Follows input, task and answer tokens through the layers at a slot.

        The input set holds the slot's own token and the beginning of the query's input; the task set the beginnings
        of the task words; the answer set the label's first token. A token in several sets counts for the later phase.

        Args:
            prompts: Prompts with labels, usually ICL prompts.
            task_words: Words that name the task, or those that `find_task_words` found; by default the task's own.
            slot: Where to read.
            lens: The lens, by default the logit lens.

        Returns:
            Probability mass and rank of the three sets per prompt and depth; its `boundaries()` say where one phase
            gives way to the next.

        Raises:
            PromptError: No task words, or none has a token of its own, or none were found for this task and model; or
                a prompt without label.
            ModelError: The lens was trained on another model.

        Source: Luo, Darrell and Bar, ICML 2025, section 4.
        """
        return self._phases(prompts, task_words, slot, lens)[1]

    def phases_and_answers(
        self,
        prompts: PromptLike,
        *,
        task_words: Sequence[str] | TaskWords = (),
        slot: str = "last",
        lens: Lens | None = None,
        max_new_tokens: int | None = None,
    ) -> tuple[Phases, Answers]:
        """What `phases` and `answers` return of the same prompts, read in the same forwards."""
        new = 1 if max_new_tokens is None else new_tokens(max_new_tokens)
        several, phases, (said, wanted) = self._phases(prompts, task_words, slot, lens, new)
        return phases, score_answers(self.encoder, several, said, wanted, max_new_tokens)

    def _phases(
        self, prompts: PromptLike, task_words: Sequence[str] | TaskWords, slot: str, lens: Lens | None, new: int = 0
    ) -> tuple[Prompts, Phases, Said]:
        several, batches = self._asked(prompts, "decoding phases")
        words = task_words if isinstance(task_words, TaskWords) else tuple(task_words)
        with self._explained(several):
            found = read_phases(self.engine, self.encoder, several, batches, words, lens or LogitLens(), slot, new)
        return several, *found

    def find_task_words(
        self,
        prompts: Sequence[PromptLike],
        *,
        slot: str = "last",
        lens: Lens | None = None,
        exclude: Sequence[str] = (),
        k: int = 5,
        share: float = 0.5,
        mass: float = 0.02,
        times: float = 2.0,
        limit: int = 5,
    ) -> TaskWords:
        """Finds words that sum up each task: what its prompts decode to at some depth, and other tasks' do not.

        Words of a task's own inputs, answers and template are never taken for it. Phases should be measured on other
        prompts (another split) than those the words were found on; answers that only these have go into `exclude`.

        Args:
            prompts: One or more sets of prompts per task, of at least two tasks.
            slot: Where to read.
            lens: The lens, by default the logit lens.
            exclude: Words never taken for any task: the labels of all items, say.
            k: How many top tokens of a prompt and depth are looked at; the mass of the others counts as 0.
            share: Least share of the task's prompts that have the word among these.
            mass: Least mean probability.
            times: How many times the mean probability in any other task.
            limit: Most words per task.

        Returns:
            The words with the numbers they were chosen by; a task may have none.

        Raises:
            PromptError: Fewer than two tasks.
            ModelError: The lens was trained on another model.
        """
        rule = {"share": share, "mass": mass, "times": times, "limit": limit}
        sets = prompts if isinstance(prompts, (list, tuple)) and prompts else [cast(PromptLike, prompts)]
        several, batches = zip(*(self._asked(some, "looking for task words") for some in sets), strict=True)
        with self._explained([p for some in several for p in some]):
            return find_task_words(
                self.engine, self.encoder, several, batches, lens or LogitLens(), slot, exclude, k, **rule
            )

    def tune_lens(
        self,
        prompts: PromptLike | Sequence[PromptLike],
        *,
        slot: str | None = None,
        steps: int = 500,
        size: int = 256,
        rate: float = 1e-3,
        decay: float = 1e-2,
        held_out: float = 0.2,
        seed: int = 0,
    ) -> TunedLens:
        """Trains a tuned lens on prompts: per depth an affine map after which the readout foresees the model's output.

        Args:
            prompts: Prompts, or several sets of them; the model should be read on prompts of the same kinds.
            slot: Where to train; by default at every token of text.
            steps: Steps of Adam per depth; with 0 the lens is the logit lens.
            size: Tokens per step.
            rate: First learning rate, which falls linearly to 0.
            decay: Weight decay, towards the logit lens.
            held_out: Share of the items whose prompts are not trained on, but compared on (they may still be examples
                in other prompts).
            seed: Seed of what is held out and of what is drawn; the same seed gives the same lens.

        Returns:
            The lens; its `to_frame()` has the divergence from the model's output before and after, on the held-out
            prompts, per depth.

        Raises:
            PromptError: Prompts of fewer than two items, or numbers that mean nothing.
            SlotError: A prompt lacks the slot.

        Source: Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned Lens", 2023, section 3.
        """
        apart = isinstance(prompts, (list, tuple)) and prompts and all(isinstance(p, Prompts) for p in prompts)
        sets: Sequence[Any] = prompts if apart else [prompts]  # type: ignore[assignment]
        several, batches = zip(*(self._asked(some, "reading residuals") for some in sets), strict=True)
        options = {"steps": steps, "size": size, "rate": rate, "decay": decay, "held_out": held_out, "seed": seed}
        following = iter(batches)
        with self._explained([p for some in several for p in some]):
            return tune_lens(
                self.engine,
                several,
                lambda _: next(following),
                slot=slot,
                versions=versions(),
                **options,  # type: ignore[arg-type]
            )

    def transfer(
        self,
        vectors: TaskVector | Sequence[TaskVector] | Mapping[str, TaskVector],
        to: PromptLike,
        *,
        layers: Sequence[int] | None = None,
        slot: str = "last",
        mode: str = "overwrite",
        strength: float = 1.0,
        max_new_tokens: int | None = None,
        foreign: bool = False,
    ) -> Transfer:
        """Patches vectors into queries, after every layer: by default into the last token of context-free ones.

        All vectors and layers of a batch, and the clean run, share as few forwards as their tokens fit in (the packed
        sweep), exactly equal to patching each apart. The first time that is compared with plain runs; a model on which
        it does not hold (attention that is not causal, linear attention, convolutions between tokens) gets a row for
        every patched run instead, with a warning.

        Args:
            vectors: One vector, several (named by their specification), or a mapping from name to vector.
            to: The queries; those without a label are answered, but have no part in accuracies.
            layers: After which blocks to patch, by number (-1 is the last); by default all. Source and target layer are
                the same.
            slot: Where to patch: a named position, by default the last token.
            mode: `overwrite` the residual, `add` (residual + strength * vector), or `interpolate` ((1 - strength) *
                residual + strength * vector).
            strength: See `mode`.
            max_new_tokens: How many tokens to read, greedily, every new one with the patch in place; then
                `continuations` holds the texts and `accuracy(score="whole")` scores whole labels. By default one, and
                no texts.
            foreign: Vectors of another model (its base LLM, say) are meant. Otherwise they are patched with a warning
                that names both, unless the models were compared (`compare_base`).

        Returns:
            The answers of every source at every layer, and without a patch.

        Raises:
            VectorError: A vector of another shape or template, or with NaN; two vectors of one name; no or unknown
                layers; an unknown mode.
            SlotError: A query lacks the slot.

        Source: Luo, Darrell and Bar, ICML 2025, section 3 (xPatch).
        """
        named = name_vectors(vectors)
        several, batches = self._asked(to, "patching")
        with self._explained(several):
            return transfer(
                self.engine,
                self.encoder,
                named,
                several,
                batches,
                layers,
                slot=slot,
                mode=mode,
                strength=strength,
                max_new_tokens=max_new_tokens,
                kin=None if foreign else self.kin,
            )

    def compare_base(self, base: VLM, prompts: PromptLike | None = None) -> BaseComparison:
        """Says what differs between this model and the base LLM it was fine-tuned from.

        Args:
            base: The base LLM.
            prompts: Text prompts that both must read alike; by default examples and instructions of xmi's own tasks.

        Returns:
            Attention, rotary, norm, readout and vocabulary settings side by side, how the prompts are tokenised, and
            how far each block's weights moved (0 = equal weights); `warnings` puts what differs in words.

        Raises:
            VectorError: Another width or number of layers: no vector of the base LLM can be patched.
            PromptError: A prompt that one of the models cannot encode.

        Source: Luo, Darrell and Bar, ICML 2025, section 4.
        """
        if isinstance(prompts, Batch) or is_encoded(prompts):
            raise PromptError("Both models encode the prompts: give text, not what one of them encoded.")
        chosen = flatten(prompts, self.encoder.chat) if prompts is not None else usual_prompts()

        def ids(vlm: VLM) -> list[list[int]]:
            inputs = vlm.encode(chosen).inputs
            rows = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
            return [row[mask].tolist() for row, mask in rows]

        check_shapes(self.engine, base.engine)
        self.kin.add(base.revision)
        return base_comparison(self.engine, base.engine, ids(self), ids(base))

    def ensembling(
        self,
        tasks: Task | Sequence[Task],
        modality: str = "text",
        *,
        query: str = "image",
        prompts: Sequence[int] = (1, 2, 3, 5, 10, 20, 30),
        shots: int = 1,
        seeds: Sequence[int] = (0, 1, 2),
        layer: int | None = None,
        n: int | None = None,
    ) -> EnsembleCurve:
        """Accuracy against the number of examples behind a task vector, with and without the instruction's vector.

        The vectors of one seed are nested: each is the mean over the first of the largest one's prompts. All vectors
        of a task share one sweep per split.

        Args:
            tasks: One task, or several of which the mean is taken.
            modality: `text` or `image`, of the examples.
            query: `text` or `image`, of the context-free queries.
            prompts: How many prompts to average, rising.
            shots: Examples per prompt.
            seeds: Seeds of the examples.
            layer: Where to patch; by default the layer that is best on validation queries, mean over all vectors,
                seeds and tasks, so that the curves differ in their vectors only.
            n: Queries per task and split; by default all.

        Returns:
            The curve on test queries; its `gain()` is what the instruction adds at each number of examples.

        Raises:
            VectorError: Numbers of prompts that do not rise, or tasks or seeds that repeat.
            TaskError: A task lacks an instruction, items or images.

        Source: Luo, Darrell and Bar, ICML 2025, section 5.
        """
        return self.ensembling_of(
            tasks, modality, queries=[query], prompts=prompts, shots=shots, seeds=seeds, layer=layer, n=n
        )[0]

    def ensembling_of(
        self,
        tasks: Task | Sequence[Task],
        modality: str = "text",
        *,
        queries: Sequence[str] = ("text", "image"),
        prompts: Sequence[int] = (1, 2, 3, 5, 10, 20, 30),
        shots: int = 1,
        seeds: Sequence[int] = (0, 1, 2),
        layer: int | None = None,
        n: int | None = None,
        slot: str = "last",
        patch_slot: str = "last",
    ) -> list[EnsembleCurve]:
        """What `ensembling` returns for queries of several modalities, the vectors read once.

        `slot` is where examples are read (an instruction is read at its last token), `patch_slot` where queries are
        patched.
        """
        return ensembling(
            [tasks] if isinstance(tasks, Task) else list(tasks),
            lambda given, sizes: self.nested_vectors(given, sizes, slot=slot if given.shots else "last"),
            lambda vectors, to, layers: self.transfer(vectors, to, layers=layers, slot=patch_slot),
            self.engine.together,
            modality=modality,
            queries=queries,
            prompts=prompts,
            shots=shots,
            seeds=seeds,
            layer=layer,
            n=n,
        )

    def override(
        self,
        task: Task,
        other: Task,
        *,
        context: str = "text",
        query: str | None = None,
        vector: TaskVector | None = None,
        shots: int = 5,
        n: int = 30,
        seed: int = 0,
        layers: Sequence[int] | None = None,
        slot: str = "last",
        patch_slot: str = "last",
    ) -> Overriding:
        """Puts one task into the prompt, patches another at a slot of it, and sees whose label is answered.

        Asked are the validation and test items of `task` whose inputs `other` has too (`xmi.vector.shared_pairs`
        finds such tasks). Baselines: no patch, the instruction of `other` before the prompt as a system prompt, and a
        random vector of the patched one's norm.

        Args:
            task: The task in the prompt.
            other: The task that is patched in.
            context: What specifies the prompt's task: `text` or `image` examples, or the `instruction`.
            query: Modality of the query; by default that of the examples, `text` after an instruction.
            vector: The vector of `other`; by default read from text examples, none of which is asked. A vector of
                your own should not know them either.
            shots: Examples per prompt.
            n: Prompts that the default vector is the mean of.
            seed: Seed of the examples and of the random control.
            layers: After which blocks to patch; by default all.
            slot: Where the default vector is read, by default at the last token.
            patch_slot: Where it is patched in, by default at the last token.

        Returns:
            Who wins per layer, on validation items (for `best_layer`) and test items (reported).

        Raises:
            TaskError: The tasks share no validation or no test items, or `other` has no instruction.
            VectorError: A vector of another task, or one that does not fit.
            SlotError: A prompt lacks a slot.

        Source: Luo, Darrell and Bar, ICML 2025, section 5 (task overriding).
        """
        mine, theirs = contest(task, other)
        target = query or ("text" if context == INSTRUCTION else context)
        prompts = asked_prompts(mine, context, target, shots, seed)
        drawn = theirs.icl("text", shots=shots, n=n, seed=seed, split=theirs.examples)
        written = vector or self.task_vector(drawn, slot=slot)
        given = (task, other, mine, prompts, self._batches, written, layers, seed, patch_slot)
        return override(self.engine, self.encoder, *given, kin=self.kin)

    def _batches(self, prompts: Prompts, doing: str) -> Iterator[Batch]:
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
            yield self.encode(part)

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


def untrained(source: str | Path, *, seed: int = 0, **options: Any) -> VLM:
    """Loads a model with random weights in place of its own: what the architecture and the prompts give by themselves.

    Args:
        source: As in `load`.
        seed: Seed of the weights, which are drawn as transformers draws them for training from nothing.
        **options: As in `load`.

    Returns:
        The model, in the precision and on the device of the trained one.

    Raises:
        ModelError: As in `load`.
    """
    if options.get("remote"):
        raise ModelError("An untrained model has weights that no host serves: leave it out, or load the model here.")
    trained = load(source, **options)
    model: Any = trained.model
    with LOADING, torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = type(model)(model.config)
    fresh = fresh.to(trained.engine.device, trained.engine.dtype).eval()
    return load(fresh, processor=trained.encoder.processor or trained.encoder.tokenizer, batch_size=trained.batch_size)


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
    remote: bool | str = False,
    wait: float = 3600.0,
    resubmit: bool = False,
) -> VLM:
    """Loads a vision-language model or a plain causal language model.

    Args:
        source: An embedded model (`organism`, `organism-llm`, `organism-control`), a folder, a Hub id, or a loaded
            module (with `processor`; it may be compiled or data-parallel). Folder and id may hold an adapter of PEFT.
        processor: Processor or tokenizer in place of the checkpoint's own.
        revision: Hub revision.
        dtype: A torch dtype, its name (`bf16`, `fp16` and the like, too), or `auto` (float32 on a CPU, the
            checkpoint's own on a GPU).
        device: Where the model goes; by default a GPU if there is one. `meta` loads configuration and processor
            only: the model can be described and prompts encoded, nothing computed.
        device_map: Spreads the model over devices, as in transformers (`auto`); needs accelerate.
        quantization: `8bit` or `4bit` (needs bitsandbytes), or a quantisation configuration of transformers.
        attn_implementation: Passed on to transformers.
        trust_remote_code: Run code that comes with the checkpoint.
        check: Prove on a few tokens, and on one image, that everything was found rightly. Remembered per checkpoint
            and library versions, so it costs time once; `False` puts it off until something needs its findings.
        batch_size: Prompts per forward.
        remote: Run on an NDIF host: its address, or True for the one that nnsight is configured for. Configuration and
            processor are loaded, no weights. The API key is the environment's (NDIF_API_KEY) or nnsight's.
        wait: Seconds to wait for one job at most; it goes on without us, and the same call waits for it again.
        resubmit: Send anew, and pay anew for, jobs that failed, were lost, or may have reached the host unanswered.

    Returns:
        The model under study.

    Raises:
        ModelError: It cannot be loaded, is no autoregressive decoder, or fails the self-check; or a host is asked for
            what only it decides (device, dtype, ...).
        RemoteError: The host cannot be reached, refuses the key, or does not serve the model; it says what is wrong.
    """
    count("batch_size", batch_size)
    if remote:
        given = {
            "device": device, "dtype": None if dtype == "auto" else dtype, "device_map": device_map,
            "quantization": quantization, "attn_implementation": attn_implementation,
        }  # fmt: skip
        if decided := [name for name in ON_HOST if given[name] is not None]:
            raise ModelError(f"{', '.join(decided)}: on a host ({remote=}) that is the host's to decide. Leave it out.")
        if isinstance(source, torch.nn.Module):
            raise ModelError(f"A module is here already; a host ({remote=}) knows models by their Hub id.")
        location = resolve(source)
        if find_adapter(location, {"revision": revision, **hub_options(location, revision)}) is not None:
            raise ModelError(f"{source} is an adapter; a host ({remote=}) serves whole models. Merge it into its base.")
        device = "meta"
    with LOADING:
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
    served = None
    if remote:
        from xmi.remote import Served  # httpx and the like, for this alone

        envoy = wrap(checkpoint)
        envoy.revision = revision
        served = Served(remote, envoy, wait=wait, resubmit=resubmit)
        if check:
            _ = served.facts  # host, key, model and versions, before anything is paid for
    vlm = VLM(Engine.start(checkpoint, served), batch_size=batch_size)
    if check and (vlm.engine.dispatched or served is not None):
        _ = vlm.report
    return vlm


_READING: tuple[str, ...] = ("residuals", "residuals_at", "vectors_at", "nested_vectors", "task_vector", "answers")
_READING += ("lens", "phases", "phases_and_answers", "find_task_words", "tune_lens", "compare_base")
# What is not a prompt, hook or layer is refused where prompts, hooks and layers are understood.
check_calls(
    __name__,
    ["VLM"],  # options of `load` are refused by name where they are understood
    leave=(
        *("prompt", "to", "fwd_hooks", "bwd_hooks", "names", "positions", "max_new_tokens", "VLM.transfer.layers"),
        *(f"VLM.{verb}.prompts" for verb in _READING),
    ),
)
