"""The six shipped tasks: facts, wording, splits and pictures, and the script that builds them."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections import Counter
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "analyses" / "data"
TASKS = ROOT / "xmi" / "data" / "tasks"
# Name, domain, the paper's instruction and canonical task word, and the least number of items.
PAPER = {
    "country-capital": ("country", "The capital city of the country:", "capital", 90),
    "country-currency": ("country", "The last word of the official currency of the country:", "currency", 90),
    "animal-latin": ("animal", "The scientific name of the animal's species in latin:", "species", 75),
    "animal-young": ("animal", "The term for the baby of the animal:", "baby", 75),
    "food-color": ("food", "The color of the food:", "color", 60),
    "food-flavor": ("food", "The flavor descriptor of the food:", "flavor", 60),
}


def load(name: str) -> dict[str, Any]:
    return json.loads((TASKS / f"{name}.json").read_text(encoding="utf-8"))


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "build_tasks.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(params=list(PAPER))
def task(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(request.param)


@pytest.fixture(scope="module")
def scripts() -> tuple[Any, Any]:
    """The build script and its picture module, which import each other as scripts do."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        return importlib.import_module("build_tasks"), importlib.import_module("pictures")
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def pictures() -> dict[str, np.ndarray]:
    """All pictures by their path below the task folder, as [96, 96, 3] arrays."""
    paths = {item["image"] for name in PAPER for item in load(name)["items"]}
    return {path: np.asarray(Image.open(TASKS / path)).astype(np.int16) for path in sorted(paths)}


def test_exactly_the_six_tasks_are_shipped() -> None:
    assert {path.stem for path in TASKS.glob("*.json")} == set(PAPER)


def test_wording_is_the_papers(task: dict[str, Any]) -> None:
    domain, instruction, word, _ = PAPER[task["name"]]
    assert (task["domain"], task["instruction"], task["task_words"][0]) == (domain, instruction, word)


def test_instruction_and_paraphrases_are_distinct_and_end_in_a_colon(task: dict[str, Any]) -> None:
    wordings = [task["instruction"], *task["paraphrases"]]
    assert len(task["paraphrases"]) == 5
    assert len({wording.casefold() for wording in wordings}) == 6
    for wording in wordings:
        assert wording.endswith(":") and wording.count(":") == 1 and "\n" not in wording


def test_task_words_are_single_lower_case_words_of_one_task_only() -> None:
    words = [word for name in PAPER for word in load(name)["task_words"]]
    assert all(word.isalpha() and word.islower() for word in words)
    assert len(set(words)) == len(words)


def test_enough_items_and_none_twice(task: dict[str, Any]) -> None:
    inputs = [item["input"].casefold() for item in task["items"]]
    assert len(inputs) >= PAPER[task["name"]][3]
    assert len(set(inputs)) == len(inputs)
    assert len({item["image"] for item in task["items"]}) == len(inputs)


def test_no_name_belongs_to_two_domains() -> None:
    domains: dict[str, set[str]] = {}
    for name in PAPER:
        for item in load(name)["items"]:
            domains.setdefault(item["input"].casefold(), set()).add(PAPER[name][0])
    assert {name for name, found in domains.items() if len(found) > 1} == set()


def test_both_tasks_of_a_domain_ask_about_the_same_entities() -> None:
    for one, other in (list(PAPER)[i : i + 2] for i in (0, 2, 4)):
        entities = [[(item["input"], item["image"]) for item in load(name)["items"]] for name in (one, other)]
        assert entities[0] == entities[1]


def test_answers_are_single_words_in_the_papers_case(task: dict[str, Any]) -> None:
    capitalised = task["name"] in {"country-capital", "country-currency", "animal-latin"}
    for item in task["items"]:
        assert item["output"].isascii() and item["output"].isalpha(), item
        answer = item["output"]
        assert answer == (answer.capitalize() if capitalised else answer.lower()), item


def test_prefix_scoring_cannot_mistake_an_answer(task: dict[str, Any]) -> None:
    answers = {item["output"].casefold() for item in task["items"]}
    assert [(a, b) for a, b in permutations(answers, 2) if b.startswith(a)] == []
    for item in task["items"]:
        given, answer = item["input"].casefold(), item["output"].casefold()
        assert not given.startswith(answer) and not answer.startswith(given), item


def test_split_sizes(task: dict[str, Any]) -> None:
    total = len(task["items"])
    sizes = Counter(item["split"] for item in task["items"])
    assert set(sizes) == {"train", "validation", "test"}
    assert sizes["test"] >= 12 and 0.18 <= sizes["test"] / total <= 0.22
    assert sizes["validation"] >= 8 and 0.10 <= sizes["validation"] / total <= 0.135


def test_splits_are_drawn_independently_per_task() -> None:
    for one, other in (list(PAPER)[i : i + 2] for i in (0, 2, 4)):
        splits = [{item["input"]: item["split"] for item in load(name)["items"]} for name in (one, other)]
        tested = [{entity for entity, split in found.items() if split == "test"} for found in splits]
        assert tested[0] - tested[1] and tested[1] - tested[0]


def test_a_split_does_not_depend_on_the_other_items(scripts: tuple[Any, Any], task: dict[str, Any]) -> None:
    build = scripts[0]
    [spec] = [spec for spec in build.read_specs() if spec["name"] == task["name"]]
    for item in task["items"]:
        assert build.split_of(task["name"], item["input"], spec["seed"]) == item["split"]


def test_the_seed_is_the_smallest_that_gives_these_sizes(scripts: tuple[Any, Any], task: dict[str, Any]) -> None:
    build, total = scripts[0], len(task["items"])
    [spec] = [spec for spec in build.read_specs() if spec["name"] == task["name"]]
    for seed in range(spec["seed"] + 1):
        sizes = Counter(build.split_of(task["name"], item["input"], seed) for item in task["items"])
        fits = sizes["test"] == -(-total // 5) and max(8, 0.10 * total) <= sizes["validation"] <= 0.135 * total
        assert fits == (seed == spec["seed"])


def test_every_picture_is_owned_and_96_pixels_square(pictures: dict[str, np.ndarray]) -> None:
    on_disk = {path.relative_to(TASKS).as_posix() for path in TASKS.rglob("*.png")}
    assert on_disk == set(pictures)
    assert {array.shape for array in pictures.values()} == {(96, 96, 3)}
    assert sum((TASKS / path).stat().st_size for path in pictures) < 2_500_000


def test_no_picture_is_blank_or_off_centre(pictures: dict[str, np.ndarray]) -> None:
    for path, array in pictures.items():
        drawn = (array < 250).any(axis=2)
        rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
        assert drawn.mean() > 0.08, path
        assert array.std() > 15, path
        # The longer side fills the square, and the shorter one is centred in it.
        assert max(np.ptp(rows), np.ptp(columns)) >= 85, path
        assert abs(rows[0] - (95 - rows[-1])) <= 8 and abs(columns[0] - (95 - columns[-1])) <= 8, path


def test_pictures_differ_pairwise(pictures: dict[str, np.ndarray]) -> None:
    alike = [
        (one, other) for one, other in combinations(pictures, 2) if np.abs(pictures[one] - pictures[other]).mean() < 8
    ]
    assert alike == []


def test_the_script_reproduces_the_json_byte_for_byte(scripts: tuple[Any, Any]) -> None:
    built = {f"{task['name']}.json": scripts[0].to_json(task).encode() for task in scripts[0].build_tasks()}
    assert built == {path.name: path.read_bytes() for path in TASKS.glob("*.json")}


def test_the_script_reproduces_the_pictures(
    scripts: tuple[Any, Any], pictures: dict[str, np.ndarray], tmp_path: Path
) -> None:
    build, drawing = scripts
    try:
        font = drawing.find_font()
    except drawing.PictureError as error:
        pytest.skip(str(error))
    if not drawing.is_shipped_font(font):
        pytest.skip(f"{font} is not the version of the font that drew the shipped pictures")
    assert build.write_pictures(tmp_path, font) == len(pictures)
    for path, shipped in pictures.items():
        drawn = np.asarray(Image.open(tmp_path / path)).astype(np.int16)
        # Another version of Pillow may round differently; another drawing differs by far more.
        assert np.abs(drawn - shipped).max() <= 3, path


def test_pictures_that_no_entity_owns_are_removed(scripts: tuple[Any, Any], tmp_path: Path) -> None:
    build, drawing = scripts
    stale = tmp_path / "images" / "food" / "stale.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"")
    try:
        build.write_pictures(tmp_path, drawing.find_font())
    except drawing.PictureError as error:
        pytest.skip(str(error))
    assert not stale.exists()


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"input": "Peru", "output": "Two words"}, "not a single word"),
        ({"input": "Tunisia", "output": "Tunis"}, "can be copied from"),
        ({"input": "Dog", "output": "Athenspup"}, "is a prefix of"),
    ],
)
def test_a_table_that_breaks_a_rule_is_refused(scripts: tuple[Any, Any], item: dict[str, str], message: str) -> None:
    build = scripts[0]
    with pytest.raises(build.TableError, match=message):
        build.check_answers("country-capital", [{"input": "Greece", "output": "Athens"}, item])


def test_a_broken_row_and_a_repeated_entity_are_refused(scripts: tuple[Any, Any], tmp_path: Path) -> None:
    build = scripts[0]
    table = tmp_path / "table.csv"
    for rows, message in (("Greece,,\n", "missing or an extra"), ("Peru,PE,\nPeru,PE,\n", "2 times")):
        table.write_text(f"entity,iso,source\n{rows}", encoding="utf-8")
        with pytest.raises(build.TableError, match=message):
            build.read_table(table)


def test_a_missing_font_is_told_with_the_remedy(tmp_path: Path) -> None:
    run = run_script("--out", str(tmp_path), "--font", str(tmp_path / "no.ttf"))
    assert run.returncode == 1
    assert "apt-get install fonts-noto-color-emoji" in run.stderr and "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_cards_table_is_what_the_script_prints() -> None:
    run = run_script("--stats")
    assert run.returncode == 0
    assert run.stdout.strip() in (TASKS / "README.md").read_text(encoding="utf-8")
