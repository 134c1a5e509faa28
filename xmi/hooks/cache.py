"""Activations of one forward, by hook name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from xmi.errors import HookError
from xmi.model import from_end, full_name
from xmi.shown import Shown, brief
from xmi.storage import pack_tensors, read_tensors, reading, write_file

Key = str | tuple[str] | tuple[str, int | None]


@dataclass(frozen=True)
class ActivationCache(Shown, Mapping[str, torch.Tensor]):
    """Activations by hook name, in TransformerLens' names and shapes.

    `cache["blocks.5.hook_resid_post"]`, `cache["resid_post", 5]` and `cache["blocks.5.attn.hook_z"]` work as there.
    Residuals are [batch, position, d_model], heads [batch, position, head, d_head], patterns [batch, head, query
    position, key position].

    Attributes:
        activations: The tensors, in the order of execution.
        card: Where they came from: model, revision, dtype, attention implementation, prompts, tokens, slots, versions.

    Examples:
        >>> logits, cache = vlm.run_with_cache("France :", names=["resid_post"])
        >>> cache["blocks.5.hook_resid_post"].shape  # prompt, token, d_model
        torch.Size([1, 4, 128])
        >>> cache["blocks.5.hook_resid_post"] is cache["resid_post", 5]
        True
    """

    activations: dict[str, torch.Tensor]
    card: dict[str, Any]

    def __getitem__(self, key: Key) -> torch.Tensor:
        """Returns an activation by its full name, or by short name and layer; -1 is the last layer.

        Raises:
            HookError: No such hook, or it was not kept.
        """
        parts: tuple[Any, ...] = (key,) if isinstance(key, str) else tuple(key)
        if len(parts) > 2:
            raise HookError(f"Cannot read the key {key!r}: write a name, or (name, layer) such as ('attn.hook_q', 5).")
        if len(parts) == 2 and parts[1] is not None:
            parts = (parts[0], from_end(parts[1], self.n_layers))
        name = key if isinstance(key, str) and key in self.activations else full_name(*parts)
        if name not in self.activations:
            kept = ", ".join(self.short_names)
            raise HookError(f"{name} was not kept; this cache holds {kept or 'nothing'}: ask for it with names=...")
        return self.activations[name]

    def __contains__(self, key: object) -> bool:
        """Whether an activation was kept."""
        try:
            self[key]  # type: ignore[index]
        except (HookError, TypeError):
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        """Iterates over the full names."""
        return iter(self.activations)

    def __len__(self) -> int:
        """Returns how many activations were kept."""
        return len(self.activations)

    @property
    def n_layers(self) -> int:
        """Number of the model's layers."""
        return int(self.card["n_layers"])

    @property
    def short_names(self) -> tuple[str, ...]:
        """What is kept, without the layers: `hook_resid_post`, `attn.hook_z`, ..."""
        return tuple(dict.fromkeys(n.split(".", 2)[2] if n.startswith("blocks.") else n for n in self.activations))

    def layers(self, short: str) -> tuple[int, ...]:
        """Layers at which a hook was kept."""
        return tuple(i for i in range(self.n_layers) if self.__contains__((short, i)))

    def stack(self, short: str) -> Float[torch.Tensor, "layer batch position ..."]:
        """One hook at every layer that has it, in one tensor; `layers` names them.

        Raises:
            HookError: It was not kept at any layer, or its shape differs between layers.
        """
        layers = self.layers(short)
        if not layers:
            self[short, 0]
        found = [self[short, i] for i in layers]
        shapes = {tuple(v.shape) for v in found}
        if len(shapes) > 1:
            raise HookError(
                f"{short} has different shapes at different layers: {sorted(shapes)}; take them one by one."
            )
        return torch.stack([v.to(found[0].device) for v in found])

    def accumulated_resid(
        self, layer: int | None = None, *, incl_mid: bool = False, return_labels: bool = False
    ) -> Any:
        """The residual stream as it accumulates: before each layer, and after the last.

        Args:
            layer: Up to before this layer; None for all of them and the end. As in a list, negative numbers count from
                the end of what there is: -1 is the end (`final_post`), -2 before the last layer.
            incl_mid: Also between attention and MLP.
            return_labels: Also return what each component is (`0_pre`, `0_mid`, ..., `final_post`).

        Returns:
            Shape [component, batch, position, d_model]; with `return_labels` a pair of it and the labels.

        Raises:
            HookError: No such layer, or `resid_pre` (and `resid_mid`, and `resid_post` of the last layer) was not kept.
        """
        try:
            end = from_end(-1 if layer is None else layer, self.n_layers + 1)
        except HookError:
            raise HookError(
                f"Cannot accumulate up to layer {layer!r}: the model has layers 0 to {self.n_layers - 1}; "
                f"{self.n_layers}, or -1, is the end."
            ) from None
        parts, labels = [], []
        for i in range(end):
            parts.append(self["resid_pre", i])
            labels.append(f"{i}_pre")
            if incl_mid:
                parts.append(self["resid_mid", i])
                labels.append(f"{i}_mid")
        last = end == self.n_layers
        parts.append(self["resid_post", end - 1] if last else self["resid_pre", end])
        labels.append("final_post" if last else f"{end}_pre")
        stacked = torch.stack([p.to(parts[0].device) for p in parts])
        return (stacked, labels) if return_labels else stacked

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> ActivationCache:
        """Returns the same activations on another device or in another precision."""
        return replace(self, activations={k: v.to(device=device, dtype=dtype) for k, v in self.activations.items()})

    def save(self, path: str | Path) -> Path:
        """Writes the activations as safetensors, their card in the header, and returns the path.

        Raises:
            StorageError: They cannot be written there.
        """
        texts = {"card": json.dumps(self.card), "order": json.dumps(list(self.activations))}
        return write_file(path, pack_tensors(self.activations, texts))

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> ActivationCache:
        """Reads activations written by `save`.

        Raises:
            HookError: The file does not exist, is damaged, or holds no activations of xmi.
        """
        with reading(path, "activations", error=HookError):
            tensors, texts = read_tensors(path, device=device)
            order, card = json.loads(texts["order"]), json.loads(texts["card"])
            if not isinstance(card, dict) or sorted(order) != sorted(tensors):
                raise ValueError("its card does not fit its tensors")
            return cls({name: tensors[name] for name in order}, card)

    def _facts(self) -> dict[str, Any]:
        size = sum(v.numel() * v.element_size() for v in self.activations.values())
        first = next(iter(self.activations), None)
        facts = {"model": self.card.get("model"), "activations": len(self), "size": f"{size / 1e6:.1f} MB"}
        return facts | ({"first": first, "shape": tuple(self.activations[first].shape)} if first else {})

    def _rows(self) -> list[dict[str, Any]]:
        return [{"hook": name, "values": brief(value)} for name, value in self.activations.items()]
