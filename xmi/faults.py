"""Faults in what users give, as lines that a person can act on: summed up where they are many."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

LISTED = 20
"""How many faults are listed."""

SHOWN = 80
"""Characters of a value in a message."""


def listing(faults: Sequence[str]) -> str:
    """One indented line per fault: the first 20, then how many more there are."""
    lines = [f"  {fault}" for fault in faults[:LISTED]]
    return "\n".join([*lines, f"  ... and {len(faults) - LISTED} more."] if len(faults) > LISTED else lines)


def some(names: Iterable[object], limit: int = LISTED) -> str:
    """Names in a row, separated by commas: the first so many, then how many more there are."""
    every = [short(name) for name in names]
    rest = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + rest


def short(value: object, limit: int = SHOWN) -> str:
    """A value as text, cut in the middle where it is long."""
    text = value if isinstance(value, str) else _shown(value)
    return text if len(text) <= limit else f"{text[: limit // 2]}...{text[-limit // 3 :]}"


def explain(error: ValidationError, known: Iterable[str] = ()) -> list[str]:
    """A line per fault that pydantic found: the field, what was expected, what was found, and what to do.

    Args:
        error: What pydantic raised.
        known: The keys that there are, for unknown ones.
    """
    found = error.errors(include_url=False)
    inner = {fault["loc"][: len(fault["loc"]) - 1] for fault in found}
    # A list of which no item is sound is not also too short.
    return [
        _explained(fault, list(known)) for fault in found if fault["type"] != "too_short" or fault["loc"] not in inner
    ]


def _explained(fault: Any, known: list[str]) -> str:
    place, found = ".".join(map(str, fault["loc"])), fault["input"]
    where = f"{short(place)}: " if place else ""
    match fault["type"]:
        case "missing":
            return f"{where}is missing."
        case "extra_forbidden":
            return f"{where}is not a key that is known{f'; known are {some(known, 50)}' if known else ''}."
        case "string_type":
            return f"{where}{no_text(found)}"
        case "tuple_type" | "list_type":
            return f"{where}expected a list, found {kind(found)}."
        case "model_type" | "dict_type":
            return f"{where}expected keys with values, found {kind(found)}."
        case "bool_type" | "bool_parsing":
            return f"{where}expected true or false, found {kind(found)}."
        case "int_type" | "int_parsing" | "int_from_float":
            return f"{where}expected a whole number, found {kind(found)}."
        case "literal_error":
            return f"{where}expected {fault['ctx']['expected']}, found {kind(found)}."
        case "value_error":
            return f"{where}{str(fault['ctx']['error']).rstrip('.')}."
    return f"{where}{fault['msg'][:1].lower()}{fault['msg'][1:]}, found {kind(found)}."


def no_text(found: object) -> str:
    """What to say where text was expected: YAML and JSON read some words as numbers, dates, and yes or no."""
    if found is None or found == "":
        return "expected text, found nothing."
    if isinstance(found, bool):
        return f"expected text, found {kind(found)} (as which YAML reads yes, no, on and off): put it in quotes."
    if isinstance(found, (int, float, datetime.date)):
        return f"expected text, found {kind(found)}: put it in quotes."
    return f"expected text, found {kind(found)}."


def kind(found: object) -> str:
    """A value with the word for what it is: `the number 3`, `the date 2024-01-01`, `a list`, `'text'`."""
    match found:
        case None:
            return "nothing"
        case bool():
            return str(found).lower()
        case int() | float():
            return f"the number {short(found)}"
        case datetime.date():
            return f"the date {found}"
        case str():
            return short(repr(found[: 2 * SHOWN]))
        case dict():
            return "keys with values"
        case list() | tuple() | set() | range():
            return "a list"
    return type(found).__name__


def _shown(value: object) -> str:
    try:
        return str(value)
    except (RecursionError, ValueError):  # numbers of more than 4,300 digits are not printed
        return type(value).__name__
