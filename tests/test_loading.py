"""Options of `xmi.load` are declared once: flags, plan files and the docstring say the same of them."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest
from pydantic import ValidationError

import xmi
from tests.test_commands import ALONE
from xmi.backend import ON_HOST
from xmi.load_options import Loading

FIELDS = Loading.model_fields
PARAMETERS = inspect.signature(xmi.load).parameters


def said(name: str) -> str:
    """What the docstring of `load` says of a parameter, in one line."""
    text = inspect.getdoc(xmi.load) or ""
    arguments = text.partition("Args:\n")[2].partition("\n\n")[0]
    (found,) = re.findall(rf"^    {name}: (.*?)(?=^    \w+:|\Z)", arguments, re.DOTALL | re.MULTILINE)
    return " ".join(found.split())


def test_every_option_is_a_field_or_known_not_to_be() -> None:
    assert set(FIELDS) | set(ALONE) == set(PARAMETERS)
    assert set(ON_HOST) < set(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_the_docstring_begins_with_what_the_flag_says(name: str) -> None:
    words = str(FIELDS[name].description).replace("ndif for", "True for")  # as the command line writes True
    assert said(name).startswith(words), f"docstring: {said(name)!r}"


@pytest.mark.parametrize("name", FIELDS)
def test_the_default_in_brackets_is_that_of_load(name: str) -> None:
    default = PARAMETERS[name].default
    shown = re.findall(r"\((.+)\)\.$", str(FIELDS[name].description))
    assert FIELDS[name].default is None, "nothing given"
    if default is not None and default is not False:
        assert shown == [f"{default:g}" if isinstance(default, float) else str(default)]


@pytest.mark.parametrize("name", FIELDS)
def test_what_a_plan_may_say_is_a_kind_that_load_takes(name: str) -> None:
    plain = {"str": "x", "bool": True, "int": 1, "float": 1.5, "dict": {"": "cpu"}}
    wanted = str(PARAMETERS[name].annotation)
    for kind, value in plain.items():
        try:
            Loading.model_validate({name: value})
        except ValidationError:
            continue
        known = {kind, *({"float"} if kind == "int" else ())}
        assert known & set(re.findall(r"\w+", wanted)), f"a plan may say {value!r}; load takes {wanted}"


def test_options_load_nothing_heavy() -> None:
    code = "import sys, xmi.load_options; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
