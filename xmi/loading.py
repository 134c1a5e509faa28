"""Loading models: `xmi.load`, and the same model untrained.

Options that plan files and flags give, too, stand in `xmi.load_options`; tests/test_loading.py holds both together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from xmi.backend import backend_for
from xmi.model import LOADING, Engine, load_checkpoint
from xmi.model.options import count
from xmi.vlm import VLM


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
    in_flight: int = 4,
    resubmit: bool = False,
) -> VLM:
    """Loads a vision-language model or a plain causal language model.

    Args:
        source: An embedded model (`organism`, `organism-llm`, `organism-control`), a folder, a Hub id, or a loaded
            module (with `processor`; it may be compiled or data-parallel). Folder and id may hold an adapter of PEFT.
        processor: Processor or tokenizer in place of the checkpoint's own.
        revision: Hub revision.
        dtype: Precision: float32, bfloat16, float16, or auto (auto). A torch dtype, or its name (`bf16`, `fp16` and
            the like, too); `auto` is float32 on a CPU, the checkpoint's own on a GPU.
        device: Where the model goes: cpu, cuda, cuda:1 (a GPU if there is one). `meta` loads configuration and
            processor only: the model can be described and prompts encoded, nothing computed.
        device_map: Spread the model over devices: auto. Or a device for each module, as in transformers; needs
            accelerate.
        quantization: 8bit or 4bit, by bitsandbytes. Or a quantisation configuration of transformers.
        attn_implementation: Attention as transformers names it: sdpa, eager, ...
        trust_remote_code: Run code that comes with the checkpoint.
        check: Prove on a few tokens, and on one image, that everything was found rightly. Remembered per checkpoint
            and library versions, so it costs time once; `False` puts it off until something needs its findings.
        batch_size: Prompts per forward (16).
        remote: NDIF host: its address, or True for the configured one. Configuration and processor are loaded, no
            weights. The API key is the environment's (NDIF_API_KEY) or nnsight's.
        wait: Seconds to wait for one job on the host (3600). The job is not cancelled then: the same call waits for it
            again.
        in_flight: Jobs on the host at the same time at most (4). They are parts of one large request, and the cells of
            a study.
        resubmit: Resend, and pay again for, jobs that failed or were lost. Also those that may have reached the
            host unanswered.

    Returns:
        The model under study.

    Raises:
        ModelError: It cannot be loaded, is not an autoregressive decoder, or fails the self-check; or a host is asked
            for what only it decides (device, dtype, ...).
        RemoteError: The host cannot be reached, refuses the key, or does not serve the model; it says what is wrong.

    Examples:
        >>> vlm = xmi.load("organism")  # embedded; or a folder, or a Hub id
        >>> vlm.name, vlm.backbone.n_layers, vlm.backbone.d_model
        ('organism', 8, 128)
    """
    count("batch_size", batch_size)
    count("in_flight", in_flight)
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
    backend = kind.open(
        remote, checkpoint, revision=revision, wait=wait, resubmit=resubmit, in_flight=in_flight, check=check
    )
    vlm = VLM(Engine.start(checkpoint, backend), batch_size=batch_size)
    if check and vlm.engine.computes:
        _ = vlm.report
    return vlm


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
    backend_for(options.get("remote")).require("untrained", str(source))
    trained = load(source, **options)
    model: Any = trained.model
    with LOADING, torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = type(model)(model.config)
    fresh = fresh.to(trained.engine.device, trained.engine.dtype).eval()
    return load(fresh, processor=trained.encoder.processor or trained.encoder.tokenizer, batch_size=trained.batch_size)
