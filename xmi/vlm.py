"""The object that `xmi.load` returns: a model and everything xmi does with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from xmi import answer
from xmi.arguments import check_calls
from xmi.backend import backend_for
from xmi.errors import ModelError
from xmi.hooks import generate as generation
from xmi.hooks import hooked, run
from xmi.kernels import ResidPost
from xmi.lens import read, tune, words
from xmi.model import LOADING, Engine, load_checkpoint
from xmi.model.options import count
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
    phases = read.phases
    phases_and_answers = read.phases_and_answers
    find_task_words = words.find_task_words
    tune_lens = tune.tune_lens

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
        options = self.engine.backend.sent(options, trust_host=trust_host)
        inputs = self.engine.forward(self._require_alike(self.encode(prompt)).inputs)
        inputs.pop("logits_to_keep", None)
        return self.engine.trace(**inputs, **options)

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
        lines += self.engine.backend.lines()
        if not self.engine.computes:
            return "\n".join([*lines, "weights not loaded (meta device): not checked"])
        return "\n".join([*lines, *self.report.lines()])


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
    kind = backend_for(remote)
    given = {
        "device": device, "dtype": None if dtype == "auto" else dtype, "device_map": device_map,
        "quantization": quantization, "attn_implementation": attn_implementation,
    }  # fmt: skip
    kind.check_options(source, remote, revision, given)
    if not kind.needs_weights:
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
    backend = kind.open(remote, checkpoint, revision=revision, wait=wait, resubmit=resubmit, check=check)
    vlm = VLM(Engine.start(checkpoint, backend), batch_size=batch_size)
    if check and vlm.engine.computes:
        _ = vlm.report
    return vlm


# What is not a prompt, hook or layer is refused where prompts, hooks and layers are understood.
check_calls(
    __name__,
    ["VLM"],  # options of `load` are refused by name where they are understood
    leave=("positions", "max_new_tokens", "VLM.transfer.layers"),
)
