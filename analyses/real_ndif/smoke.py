"""Stock nnsight against a server: text, and image with text, non-blocking; compared with the same model here.

Reads NDIF_HOST and NDIF_API_KEY. Nothing of xmi takes part.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import nnsight
import torch
from nnsight import TransformersModel
from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.schema.config import CONFIG
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

ID = sys.argv[1] if len(sys.argv) > 1 else "xmi/organism"
TOLERANCE = 1e-5
PATIENCE = 120.0


def residuals(model: Any, inputs: dict[str, torch.Tensor], layers: int) -> list[torch.Tensor]:
    """Residual stream of the last token after each of the first layers, in one trace."""
    kept = []
    with model.trace(**inputs):
        for layer in range(layers):
            kept.append(model.model.language_model.layers[layer].output[:, -1].detach().cpu().float())
    return kept


def remotely(model: TransformersModel, inputs: dict[str, torch.Tensor], layers: int) -> tuple[list[torch.Tensor], str]:
    """Runs `residuals` on the server, and asks for the result until it is there."""
    backend = RemoteBackend(model.to_model_key(), env=model._remoteable_get_env(), blocking=False)
    with model.session(backend=backend):
        out = nnsight.save(residuals(model, inputs, layers))  # noqa: F841, the name under which it comes back
    poller = RemoteBackend(model.to_model_key(), blocking=False, job_id=backend.job_id)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if (found := poller()) is not None:
            return found["out"], backend.job_id
        time.sleep(0.1)
    raise TimeoutError(f"Job {backend.job_id} is {poller.status} after {PATIENCE:.0f} s.")


def main() -> int:
    """Compares, says what was found, and returns 1 if anything differs."""
    CONFIG.APP.REMOTE_LOGGING = False
    processor = AutoProcessor.from_pretrained(ID)
    away = TransformersModel(ID, task="image-text-to-text", processor=processor)
    here = AutoModelForImageTextToText.from_pretrained(ID, dtype=torch.float32).eval()
    layers = here.config.text_config.num_hidden_layers - 1  # transformers hands out the last one behind the norm
    picture = Image.linear_gradient("L").convert("RGB")
    prompts: dict[str, Callable[[], Any]] = {
        "text": lambda: processor(text=["x y", "a b c d"], return_tensors="pt", padding=True),
        "image and text": lambda: processor(
            text=[f"{processor.image_token} x y", f"{processor.image_token} a"],
            images=[picture, picture.rotate(90)],
            return_tensors="pt",
            padding=True,
        ),
    }
    right = True
    for name, encode in prompts.items():
        inputs = dict(encode())
        begun = time.monotonic()
        remote, job = remotely(away, inputs, layers)
        seconds = time.monotonic() - begun
        with torch.no_grad():
            states = here(**inputs, output_hidden_states=True).hidden_states
        difference = max((a - b[:, -1]).abs().max().item() for a, b in zip(remote, states[1:-1], strict=True))
        right &= difference <= TOLERANCE and all(p.is_meta for p in away._module.parameters())
        print(f"{name}: job {job}, {seconds:.2f} s, differs from here by at most {difference:.1e}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
