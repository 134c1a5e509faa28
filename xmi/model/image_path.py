"""Where images enter the language backbone, found by following one image's features back from the decoder.

What the decoder receives differs between a picture and a blank one at the image's tokens only. The module whose
output holds just these vectors is the projector; what goes into it is what the vision tower hands over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from xmi.model.backbone import Backbone
from xmi.model.hook_points import Point

SAMPLE = 16
"""How many image tokens are followed."""


@dataclass(frozen=True)
class Eye:
    """The hooks of the image path, or why there are none."""

    points: dict[str, Point]
    missing: dict[str, str]


def find_eye(model: torch.nn.Module, backbone: Backbone, image: tuple[dict[str, Any], dict[str, Any]]) -> Eye:
    """Finds `vision.hook_out` and `projector.hook_out`.

    Args:
        model: The model.
        backbone: Where its language backbone is.
        image: Two encodings of one prompt, with a picture and with a blank one.

    Returns:
        Their points; or the reasons why the model has none.
    """
    rows = _image_vectors(model, backbone, image)
    names = ("vision.hook_out", "projector.hook_out")
    if rows is None:
        return Eye({}, dict.fromkeys(names, "nothing that enters the decoder differs between two images"))
    matches = _sources(model, backbone, image[0], rows)
    if backbone.embed in matches:
        return Eye({}, dict.fromkeys(names, "images become discrete tokens of the vocabulary"))
    # A projector's last linear layer returns the same as the projector: take the outermost.
    outer = [p for p in matches if not any(p != q and p.startswith(f"{q}.") for q in matches)]
    if not outer:
        return Eye({}, dict.fromkeys(names, "no module returns what the decoder receives at the image's tokens"))
    path = outer[-1]
    place, argument, raw = matches[path]
    points = {"projector.hook_out": Point("projector.hook_out", path, "output", place, dense=True)}
    if argument is None or raw:
        why = "the projector reads the pixels themselves" if raw else "the projector takes no tensor"
        return Eye(points, {"vision.hook_out": f"no vision tower: {why}"})
    points["vision.hook_out"] = Point("vision.hook_out", path, "input", argument, dense=True)
    return Eye(points, {})


def _image_vectors(
    model: torch.nn.Module, backbone: Backbone, image: tuple[dict[str, Any], dict[str, Any]]
) -> torch.Tensor | None:
    """Some of the vectors by which an image enters the decoder, from the first argument that differs."""
    seen: list[dict[str, torch.Tensor]] = []

    def keep(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        values = {**{str(i): v for i, v in enumerate(args)}, **kwargs}
        seen.append({k: v.clone() for k, v in values.items() if isinstance(v, torch.Tensor) and v.is_floating_point()})

    module = model.get_submodule(backbone.layers).get_submodule("0") if not backbone.decoder else None
    handle = (module or model.get_submodule(backbone.decoder)).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        for inputs in image:
            model(**inputs, use_cache=False)
    finally:
        handle.remove()
    if len(seen) != 2:
        return None
    for name in sorted(seen[0], key=lambda n: n != "inputs_embeds"):
        one, two = seen[0][name], seen[1].get(name)
        if two is None or one.shape != two.shape or one.dim() < 3:
            continue
        one, two = one.flatten(0, -2), two.flatten(0, -2)
        rows = one[(one != two).any(-1)]
        if len(rows):
            return rows[:: max(1, len(rows) // SAMPLE)][:SAMPLE]
    return None


def _sources(
    model: torch.nn.Module, backbone: Backbone, inputs: dict[str, Any], rows: torch.Tensor
) -> dict[str, tuple[int | None, int | str | None, bool]]:
    """Modules outside of the decoder whose output holds the vectors: output place, input argument, input is pixels."""
    inside = f"{backbone.decoder}." if backbone.decoder else "\0"
    names = {
        id(m): n
        for n, m in model.named_modules()
        if n == backbone.embed
        or (n and n != backbone.decoder and not n.startswith(inside) and not inside.startswith(f"{n}."))
    }
    found: dict[str, tuple[int | None, int | str | None, bool]] = {}
    held = {name: torch.zeros(len(rows), dtype=torch.bool) for name in names.values()}
    pixels = [v for v in inputs.values() if isinstance(v, torch.Tensor) and v.is_floating_point()]

    def keep(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        name = names[id(module)]
        parts: dict[int | None, Any] = {None: output}
        if isinstance(output, tuple):
            parts = dict(enumerate(output))
        for place, value in parts.items():
            some = _holds(value, rows)
            if some is None or not bool(some.any()):
                continue
            held[name] |= some.cpu()
            entering: dict[int | str, Any] = dict(enumerate(args))
            entering.update(kwargs)
            floats = {k: v for k, v in entering.items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
            argument = next(iter(floats), None)
            raw = argument is not None and any(
                floats[argument].numel() == p.numel() and torch.equal(floats[argument].flatten(), p.flatten())
                for p in pixels
            )
            found[name] = (place, argument, raw)
            return

    handles = [m.register_forward_hook(keep, with_kwargs=True) for m in model.modules() if id(m) in names]
    try:
        model(**inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    # Tiles may pass one by one, and a few vectors may be separators of the model's own.
    return {name: what for name, what in found.items() if float(held[name].float().mean()) >= 0.8}


def _holds(value: Any, rows: torch.Tensor) -> torch.Tensor | None:
    """Which of the vectors are among the value's, up to a positive factor (some models scale them)."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dim() < 2:
        return None
    if value.shape[-1] != rows.shape[-1]:
        return None
    have = torch.nn.functional.normalize(value.flatten(0, -2).float(), dim=-1)
    want = torch.nn.functional.normalize(rows.float().to(have.device), dim=-1)
    close = 1e-5 if value.dtype == torch.float32 else 1e-3
    return (want @ have.T).max(-1).values > 1 - close
