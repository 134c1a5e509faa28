"""The recorded parts of a block: how they lie in each other, and what they are by their weights and names."""

from __future__ import annotations

import torch

from xmi.model.call_recorder import Call


def output_of(call: Call) -> torch.Tensor:
    """What a part gives; nothing if that is not a tensor."""
    return torch.empty(0) if call.leaving is None else call.leaving


def are_equal(one: torch.Tensor | None, two: torch.Tensor | None) -> bool:
    """Whether two tensors are there and equal."""
    return one is not None and two is not None and torch.equal(one, two)


def is_within(call: Call, whole: Call) -> bool:
    """Whether a part is inside of another (the block itself has no path)."""
    return call is not whole and (not whole.path or call.path.startswith(f"{whole.path}."))


def is_attention(call: Call) -> bool:
    """Whether a part is called attention."""
    return "attn" in call.path.lower() or "attention" in f"{call.path} {type(call.module).__name__}".lower()


def has_matrices(call: Call) -> bool:
    """Whether it has weight matrices (and not one per expert), itself or in its parts."""
    dims = {p.dim() for p in call.module.parameters()}
    return 2 in dims and max(dims) == 2


def is_activation(module: torch.nn.Module) -> bool:
    """Whether it is a leaf without weights that does something."""
    idle = isinstance(module, (torch.nn.Dropout, torch.nn.Identity))
    return not idle and not list(module.children()) and not list(module.parameters())


def follows_activation(root: Call, parts: list[Call]) -> bool:
    """Whether a part reads what an activation function beside it gave: then it is a projection, not an MLP."""
    return any(c.direct and is_activation(c.module) and are_equal(c.leaving, root.entering) for c in parts)


def source_of(call: Call, children: list[Call]) -> Call:
    """The part whose output a norm or dropout hands on: sandwich norms stand between attention and residual."""
    while call.entering is not None and all(p.dim() <= 1 for p in call.module.parameters()):
        entering = call.entering
        made = [c for c in children if c is not call and torch.equal(output_of(c), entering)]
        if not made:
            break
        call = made[-1]
    return call


def wrapped_in(whole: Call, inside: list[Call]) -> list[Call]:
    """What a wrapper may be around: parts that read what it reads, return what it returns, and are most of it."""
    size = sum(p.numel() for p in whole.module.parameters())
    return [
        c
        for c in sorted(inside, key=lambda c: c.path.count("."))
        if is_within(c, whole)
        and list(c.module.children())
        and are_equal(c.entering, whole.entering)
        and output_of(c).shape == output_of(whole).shape
        and 2 * sum(p.numel() for p in c.module.parameters()) > size
    ]


def output_projection(whole: Call, inside: list[Call]) -> Call | None:
    """The projection that makes a module's output, with whatever is wrapped around it.

    From the innermost module with that output outwards, while what goes in has the same shape: a wrapper may turn or
    scale it, whereas a module that makes queries or widens its input for an activation is more than a projection.
    """
    makers = [
        c
        for c in inside
        if is_within(c, whole)
        and has_matrices(c)
        and torch.equal(output_of(c), output_of(whole))
        and not are_equal(c.entering, whole.entering)
    ]
    if not makers:
        return None
    found = max(reversed(makers), key=lambda c: c.path.count("."))
    for outer in sorted((c for c in makers if is_within(found, c)), key=lambda c: -c.path.count(".")):
        if (
            outer.entering is not None
            and outer.entering.shape == _entered(found)
            and not projects_several(outer, inside)
        ):
            found = outer
    return found


def input_projections(whole: Call, inside: list[Call]) -> list[Call]:
    """The projections of what a module reads, with whatever is wrapped around each."""
    found = [c for c in inside if is_within(c, whole) and has_matrices(c) and are_equal(c.entering, whole.entering)]
    found = [c for c in found if c.leaving is not None and c.place is None]
    found = [c for c in found if not projects_several(c, found)]
    return [c for c in found if not any(is_within(c, other) for other in found)]


def projects_several(whole: Call, parts: list[Call]) -> bool:
    """Whether it holds several projections: of queries, keys and values."""
    return len({letter_of(p) for p in parts if is_within(p, whole) and has_matrices(p)} & set("qkv")) > 1


def _entered(call: Call) -> torch.Size | None:
    return None if call.entering is None else call.entering.shape


def letter_of(call: Call) -> str:
    """The initial of a projection's name."""
    return call.name.lstrip("w")[:1]
