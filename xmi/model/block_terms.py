"""How the parts of a block change its residual stream: which output is added, with which factor."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import torch

from xmi.model.block_parts import is_attention, output_of
from xmi.model.call_recorder import Call


@dataclass(frozen=True)
class Term:
    """`target = keep * base + factor * call's output [+ extra]`."""

    call: Call
    error: float
    factor: float = 1.0
    keep: float = 1.0
    extra: str = ""

    def remarks(self, hook: str) -> list[str]:
        """How this deviates from plain addition, in words."""
        said = []
        if abs(self.factor - 1) > 1e-3:
            said.append(f"the residual stream receives {hook} times {self.factor:.3g}")
        if abs(self.keep - 1) > 1e-3:
            said.append(f"the residual stream is multiplied by {self.keep:.4g} where {hook} is added")
        if self.extra:
            said.append(f"{self.extra} adds to the residual stream besides {hook}")
        return said


def find_middle(before: torch.Tensor, parts: list[Call]) -> tuple[Call, torch.Tensor] | None:
    """The call that reads the middle of the residual stream, and the middle: what a part reads and no part made."""
    made = [v for call in parts for v in call.outputs.values() if v.shape == before.shape]
    for call in parts:
        state = call.entering
        if not call.direct or state is None or state.shape != before.shape or torch.equal(state, before):
            continue
        if not any(torch.equal(state, m) for m in made):
            return call, state
    return None


def explain_sum(target: torch.Tensor, base: torch.Tensor, calls: list[Call]) -> Term | None:
    """Which part's output makes the target from the base; the plainest account that holds is taken.

    Adding in the model's own precision must give the target bit by bit; so half precision misleads nobody.
    """
    # Of equal outputs the last counts: a dropout that changes nothing hands on what attention returned.
    for call in reversed(calls):
        if torch.equal(base + output_of(call), target):
            return Term(call, 0.0)
    for keep in (False, True):
        for call in reversed(calls):
            if (fit := _fit(target, base, [call], keep)) is not None:
                return fit
    for one, two in permutations(calls, 2):
        if (fit := _fit(target, base, [one, two], True)) is not None:
            return fit
    return None


def _fit(target: torch.Tensor, base: torch.Tensor, calls: list[Call], keep: bool) -> Term | None:
    """Least squares for the factors; None if the account leaves more than the rounding of each number."""
    values = [output_of(c).double().flatten() for c in calls]
    base_, target_ = base.double().flatten(), target.double().flatten()
    aim = target_ if keep else target_ - base_
    if not bool(aim.any()) or any(not bool(v.any()) for v in values):
        return None
    columns = torch.stack([*values, base_] if keep else values, 1)
    solution = torch.linalg.lstsq(columns, aim[:, None]).solution[:, 0]
    gap = (columns @ solution - aim).abs()
    size = target_.abs() + base_.abs() + (columns * solution).abs().sum(1)
    if bool((gap > 2 * torch.finfo(target.dtype).eps * size).any()):
        return None
    # A factor of nothing explains nothing: what is added must not vanish in the rounding.
    if any(float((v * s).abs().max()) < 8 * float(gap.max()) for v, s in zip(values, solution, strict=False)):
        return None
    extra = ", ".join(c.path for c in calls[1:])
    return Term(calls[0], float(gap.max()), float(solution[0]), float(solution[-1]) if keep else 1.0, extra)


def explain_parallel(after: torch.Tensor, before: torch.Tensor, calls: list[Call]) -> tuple[Term | None, Term | None]:
    """The two parts that are added to the block's input at once: attention and MLP, in whatever order."""
    for one, two in permutations(reversed(calls), 2):
        a, b = output_of(one), output_of(two)
        if is_attention(one) and not is_attention(two):
            for total in (before + a + b, a + b + before, before + b + a):
                if torch.equal(total, after):
                    return Term(one, 0.0), Term(two, 0.0)
    return None, None
