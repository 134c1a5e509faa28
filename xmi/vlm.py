"""The object that `xmi.load` returns: a model and everything xmi does with it."""

from __future__ import annotations

from typing import Any, Literal

from xmi import answer, steering
from xmi.arguments import check_calls
from xmi.errors import PromptError
from xmi.hooks import generate as generation
from xmi.hooks import hooked, pattern, run
from xmi.kernels import ResidPost
from xmi.lens import decode, read, trajectory, tune, words
from xmi.prompt import PromptLike
from xmi.session import Session
from xmi.vector import base_comparison, extract, patch
from xmi.vector import ensembling as ensembles
from xmi.vector import override as overriding


class VLM(Session):
    """A vision-language model, or a plain language model, under study.

    Each verb stands in its room, as a function of a session.

    Attributes:
        engine: The checked model and its nnsight envoy.
        batch_size: Prompts per forward.
        kin: Revisions of models whose vectors are meant here, since they were compared with this one.
    """

    run_with_cache = run.run_with_cache
    run_with_hooks = run.run_with_hooks
    hooks = hooked.hooks
    generate = generation.generate
    pattern = pattern.pattern
    steer = steering.steer

    residuals = extract.residuals
    residuals_at = extract.residuals_at
    vectors_at = extract.vectors_at
    nested_vectors = extract.nested_vectors
    task_vector = extract.task_vector

    answers = answer.answers
    transfer = patch.transfer
    compare_base = base_comparison.compare_base
    ensembling = ensembles.ensembling
    ensembling_of = ensembles.ensembling_of
    override = overriding.override

    lens = read.lens
    decode = decode.decode
    trajectory = trajectory.trajectory
    phases = read.phases
    phases_and_answers = read.phases_and_answers
    find_task_words = words.find_task_words
    tune_lens = tune.tune_lens

    @property
    def resid_post(self) -> ResidPost:
        """The residual stream after each block, for use inside `trace`: `vlm.resid_post[5]`, to read and to write."""
        return ResidPost(self.layers)

    def trace(
        self, prompt: PromptLike, *, logits: Literal["all", "last"] = "all", trust_host: bool = False, **options: Any
    ) -> Any:
        """Opens a raw nnsight trace on a prompt (`with vlm.trace(prompt): ...`).

        Other threads wait while the block runs, so it must not wait for one that runs the same model.

        On a host the block travels with every name in it, so take what is read beforehand (`resid = vlm.resid_post`).
        What it saves may be tensors and builtins, and comes back as data.

        Args:
            prompt: The prompt.
            logits: Of which positions the model computes logits, where it leaves the choice: of `all`, or of the `last`
                alone, which saves the unembedding of the others where nothing but `logits[:, -1]`, or no logits, is
                read. Activations are those of all positions either way.
            trust_host: Send it by nnsight's own means, which show progress and take anything that can be saved, but
                un-pickle what comes back: whoever runs the host can run code on this machine.
            **options: What nnsight's `trace` takes.

        Raises:
            RemoteError: Options ask for nnsight's own way to a host, which is not trusted.
            PromptError: The last logits are asked for, of prompts that are padded on the right.
            HookError: Hooks are active, or (when the block runs) the model is in the middle of a forward.

        Examples:
            >>> resid = vlm.resid_post
            >>> with vlm.trace("France :"):
            ...     state = resid[3].save()
            >>> state.shape  # prompt, token, d_model
            torch.Size([1, 4, 128])
        """
        options = self.engine.backend.sent(options, trust_host=trust_host)
        batch = self._require_alike(self.encode(prompt))
        if logits == "last" and not bool(batch.inputs["attention_mask"][:, -1].all()):
            raise PromptError("logits='last' of prompts that are padded on the right: encode them with padding left.")
        inputs = self.engine.forward(batch.inputs)
        if logits == "all":
            inputs.pop("logits_to_keep", None)
        return self.engine.trace(**inputs, **options)

    @property
    def hook_names(self) -> tuple[str, ...]:
        """Names of all hooks of this model, in the order of execution."""
        return tuple(self.report.anatomy.points)

    def describe(self) -> str:
        """Returns what xmi found in the model, one fact per line.

        Examples:
            >>> print(vlm.describe().splitlines()[1])
            backbone model.language_model: 8 layers (model.language_model.layers), width 128
        """
        b = self.backbone
        kind = "image-text-to-text" if self.encoder.processor is not None else "text only"
        lines = [
            f"{self.name} ({type(self.model).__name__}, {kind}), revision {self.revision}",
            f"backbone {b.decoder or 'model'}: {b.n_layers} layers ({b.layers}), width {b.d_model}",
            f"readout {b.norm} -> {b.head}, scale {b.scale:g}, soft-capping {b.softcap}",
        ]
        lines += self.engine.backend.lines()
        if not self.engine.computes:
            return "\n".join([*lines, "weights not loaded (meta device): not checked"])
        return "\n".join([*lines, *self.report.lines()])


# What is not a prompt, hook or layer is refused where prompts, hooks and layers are understood.
check_calls(
    __name__,
    ["VLM"],
    leave=("positions", "max_new_tokens", "VLM.transfer.layers"),
)
