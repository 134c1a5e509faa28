"""What a field of a plan file, or a flag, may hold."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from xmi.faults import kind

MOST = 10_000
"""How many layers, seeds or tasks a plan may name, and the highest number that it may name."""


def plain(value: Any) -> Any:
    """Refuses what is not a number but would be taken for one: yes and no, and text."""
    if isinstance(value, (bool, str)):
        raise ValueError(f"expected a number, found {kind(value)}")
    return value


Number = Annotated[int, BeforeValidator(plain), Field(ge=0, lt=MOST)]
Count = Annotated[int, BeforeValidator(plain), Field(le=MOST)]
Text = Annotated[str, Field(min_length=1, max_length=1000)]
Switch = Annotated[bool, Field(strict=True)]
