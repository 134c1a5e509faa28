"""The self-check of a model that is on a host: what can be proven from here, by jobs."""

from __future__ import annotations

from typing import Any

from xmi.errors import ModelError
from xmi.kernels import proof_kernel, sight_kernel
from xmi.model.anatomy import Anatomy
from xmi.model.check import TOLERANCE, CheckReport, Inputs
from xmi.model.engine import Engine
from xmi.model.hook_points import BLOCK_HOOKS, OUTER, Point

WHY = (
    "on a host xmi reads the residual stream and the final norm, since without weights it cannot prove what part of a "
    "block a module is. Read it in vlm.trace(...), or load the model here"
)


def prove(engine: Engine) -> dict[str, float]:
    """What `proof_kernel` finds on two texts; see there."""
    b, (one, two) = engine.backbone, engine.probe()
    given = engine.forward(one), engine.forward(two), engine.paths, b.scale, b.softcap
    [found] = engine.map(proof_kernel, [(*given, "position_ids" in engine.arguments)])
    return dict(found)


def check_hosted(
    engine: Engine, proof: dict[str, float], pictures: tuple[Inputs, Inputs] | None, remarks: tuple[str, ...]
) -> CheckReport:
    """The report on a hosted model.

    Args:
        engine: The model.
        proof: What the host proved on two texts.
        pictures: Two encodings of one prompt, with a picture and with a blank one.
        remarks: What could not be checked.

    Raises:
        ModelError: The readout differs from the model's logits, a block's residual is dead, or images have no effect.
    """
    name = engine.checkpoint.name
    bound = TOLERANCE.get(engine.dtype, 5e-2)
    if not proof["readout"] <= bound:
        raise ModelError(
            f"{name}: the final norm ({engine.backbone.norm}) and unembedding ({engine.backbone.head}) of the last "
            f"residual differ from the host's logits by {proof['readout']:.1e} of the largest (allowed {bound:.0e})."
        )
    if proof["dead"] >= 0:
        raise ModelError(f"{name}: writing the residual after layer {proof['dead']:.0f} does not move the logits.")
    effect = None
    if pictures is not None:
        one, two = (engine.forward(inputs) for inputs in pictures)
        [effect] = engine.map(sight_kernel, [(one, two)])
        if effect == 0:
            raise ModelError(f"{name}: blanking the image does not move the logits: the model does not see its images.")
    moved = proof["causality"]
    return CheckReport(proof["readout"], moved <= bound, moved, effect, _anatomy(engine), remarks)


def _anatomy(engine: Engine) -> Anatomy:
    """The hooks that are the blocks' own inputs and outputs, which the readout proves."""
    b = engine.backbone
    points: dict[str, Point] = {}
    for layer in range(b.n_layers):
        for short, side in (("hook_resid_pre", "input"), ("hook_resid_post", "output")):
            name = f"blocks.{layer}.{short}"
            points[name] = Point(name, f"{b.layers}.{layer}", side)  # type: ignore[arg-type]
    points["ln_final.hook_normalized"] = Point("ln_final.hook_normalized", b.norm, "output")
    known = {name.split(".", 2)[2] for name in points if name.startswith("blocks.")}
    outer = [name for name in dict.fromkeys(OUTER.values()) if name not in points]
    missing: dict[str, Any] = dict.fromkeys(outer, WHY)
    missing |= {f"blocks.{i}.{hook}": WHY for i in range(b.n_layers) for hook in BLOCK_HOOKS if hook not in known}
    return Anatomy(points, missing, (), float("nan"))
