"""What went into and out of a block's parts in one forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(eq=False)
class Call:
    """One call of a module: its floating-point tensors, copied.

    Attributes:
        path: The module's path within the block; empty for the block itself.
        module: The module.
        inputs: Tensors that went in, by number or name of the argument.
        outputs: Tensors that came out, by index in the tuple, or None for the output itself.
        flat_inputs: Which inputs held all tokens of the batch in one axis.
        flat_outputs: Which outputs did.
    """

    path: str
    module: torch.nn.Module
    inputs: dict[int | str, torch.Tensor]
    outputs: dict[int | None, torch.Tensor]
    flat_inputs: frozenset[int | str] = frozenset()
    flat_outputs: frozenset[int | None] = frozenset()

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def direct(self) -> bool:
        """Whether it is a child of the block, not a deeper part."""
        return "." not in self.path

    @property
    def argument(self) -> int | str:
        """Where the first tensor stood among the arguments."""
        return next(iter(self.inputs))

    @property
    def entering(self) -> torch.Tensor | None:
        """The first tensor that went in."""
        return next(iter(self.inputs.values()), None)

    @property
    def place(self) -> int | None:
        """Index of the first tensor in the output tuple, or None."""
        return next(iter(self.outputs))

    @property
    def leaving(self) -> torch.Tensor | None:
        """The first tensor that came out."""
        return next(iter(self.outputs.values()), None)

    def unflatten(self, shape: torch.Size) -> None:
        """Gives tensors that hold all tokens in one axis their batch and position axes."""

        def flat(value: torch.Tensor) -> bool:
            return value.dim() == 2 and value.shape[0] == shape[0] * shape[1]

        self.flat_inputs = frozenset(k for k, v in self.inputs.items() if flat(v))
        self.flat_outputs = frozenset(k for k, v in self.outputs.items() if flat(v))
        tokens = (shape[0], shape[1], -1)
        self.inputs = {k: v.reshape(tokens) if k in self.flat_inputs else v for k, v in self.inputs.items()}
        self.outputs = {k: v.reshape(tokens) if k in self.flat_outputs else v for k, v in self.outputs.items()}


def record(
    model: torch.nn.Module,
    watched: dict[str, str],
    probe: Callable[[], Any],
    done: Callable[[str, Call, list[Call]], None],
) -> None:
    """Runs a forward and hands over every watched module's call, with those of its parts, as soon as it ends.

    So one block's tensors are held at a time.

    Args:
        model: The model.
        watched: Path of each module to watch, and `all` if its parts are wanted too, or `own`.
        probe: Runs the forward.
        done: Gets the path, the module's call, and the calls of its parts in the order of execution.
    """
    owners: dict[int, tuple[str, str]] = {}
    for path, what in watched.items():
        root = model.get_submodule(path)
        for inner, module in root.named_modules() if what == "all" else [("", root)]:
            owners.setdefault(id(module), (path, inner))
    parts: dict[str, list[Call]] = {path: [] for path in watched}

    def keep(module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        path, inner = owners[id(module)]
        call = _call(inner, module, args, kwargs, output)
        if inner:
            parts[path].append(call)
            return
        done(path, call, parts[path])
        parts[path] = []

    handles = [m.register_forward_hook(keep, with_kwargs=True) for m in model.modules() if id(m) in owners]
    try:
        with torch.no_grad():
            probe()
    finally:
        for handle in handles:
            handle.remove()


def _call(path: str, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> Call:
    def kept(value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value.is_floating_point()

    inputs: dict[int | str, torch.Tensor] = {i: v.clone() for i, v in enumerate(args) if kept(v)}
    inputs |= {k: v.clone() for k, v in kwargs.items() if kept(v)}
    outputs: dict[int | None, torch.Tensor] = {}
    if kept(output):
        outputs[None] = output.clone()
    elif isinstance(output, (tuple, list)):
        outputs = {i: v.clone() for i, v in enumerate(output) if kept(v)}
    return Call(path, module, inputs, outputs)
