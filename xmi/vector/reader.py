"""What decodes a vector: a model with a lens, told by what they can do, since their rooms are not below this one."""

from __future__ import annotations

from typing import Any, Protocol

from xmi.measure import LensReading


class AnyLens(Protocol):
    """A lens; see `xmi.lens.Lens`."""

    @property
    def name(self) -> str:
        """Its name."""

    def translators(self, engine: Any) -> Any:
        """Weight and bias of every depth but the last."""


class Reader(Protocol):
    """A model that decodes vectors, as `xmi.VLM` does."""

    @property
    def name(self) -> str:
        """What was loaded."""

    @property
    def revision(self) -> str:
        """Commit or content hash of what was loaded."""

    def decode(self, values: Any, *, k: int = 5, lens: Any = None) -> LensReading:
        """What the vector of each layer is read as."""
