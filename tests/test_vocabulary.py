"""The words of the library are written once, in `xmi.names`, and what is made of them can be taken apart again."""

import ast
from pathlib import Path

import pytest

import xmi
from xmi import names

SOURCE = Path(xmi.__file__).parent
OWN = {names.TEXT_ICL, names.IMAGE_ICL, names.ONE_EXAMPLE, names.NO_CONTEXT, *names.CONTROLS}
OWN |= {names.of_base(name) for name in ("", *names.SPECIFICATIONS)}


@pytest.mark.parametrize("modality", names.MODALITIES)
def test_a_specification_knows_its_modality(modality: str) -> None:
    assert names.modality_of(names.icl(modality)) == modality
    assert names.modality_of(names.of_base(names.icl(modality))) is None
    assert names.modality_of(names.mean_of(names.icl(modality), names.icl("image"))) is None
    assert names.modality_of(names.INSTRUCTION) is None


def test_sources_are_taken_apart_as_they_were_made() -> None:
    both = names.mean_of(names.IMAGE_ICL, names.INSTRUCTION)
    assert both == "image ICL + instruction"
    assert names.parts_of(both) == (names.IMAGE_ICL, names.INSTRUCTION)
    assert names.needs_images(both) and names.needs_instruction(both)
    assert not names.needs_images(names.TEXT_ICL) and not names.needs_instruction(names.ONE_EXAMPLE)
    assert names.without_base(names.of_base(names.INSTRUCTION)) == names.INSTRUCTION
    assert names.needs_instruction(names.of_base(names.INSTRUCTION))
    assert names.is_control(names.RANDOM) and names.without_control(names.RANDOM) == "random vector"
    assert not names.is_control("control group") and names.without_control("control group") == "control group"


def test_names_of_cells_and_labels_are_taken_apart_as_they_were_made() -> None:
    assert names.cell_parts(names.cell_name("a > b", "image")) == ("a > b", "image")
    assert names.label_parts(names.label_of("my · task", names.TEXT_ICL)) == ("my · task", names.TEXT_ICL)
    assert names.label_parts(names.label_of("", names.TEXT_ICL)) == ("", names.TEXT_ICL)


def test_no_other_module_writes_these_words() -> None:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        if path.name == "names.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                word = node.value
                if word in OWN or word.startswith(names.control("")):
                    found.append(f"{path.relative_to(SOURCE)}:{node.lineno}: {word!r}")
    assert not found, "take these from xmi.names:\n" + "\n".join(found)
