"""Build the six tasks that xmi ships: fact tables and an emoji font in, JSON files and pictures out.

    python analyses/data/build_tasks.py            # writes xmi/data/tasks/
    python analyses/data/build_tasks.py --stats    # prints the table of counts, writes nothing

The facts stand in the CSV files beside this script, the instructions in tasks.toml. Nothing is drawn
at random: the split of an item is read from a hash of its task and its entity, so it stays what it is
when other items are added, and an entity may be a test item in one task and a train item in another.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
import tomllib
from collections import Counter
from itertools import permutations
from pathlib import Path
from typing import Any

from pictures import PictureError, draw, find_font, flag, is_shipped_font, load_font

HERE = Path(__file__).resolve().parent
OUT = HERE.parents[1] / "xmi" / "data" / "tasks"
# Expected shares of the test and validation splits. A hash decides item by item, so the sizes scatter;
# each task's seed in tasks.toml is the smallest one with which they come out near these shares.
TEST, VALIDATION = 0.20, 0.12


class TableError(ValueError):
    """A fact table breaks a rule of the task set."""


def slug(entity: str) -> str:
    """Return the file name stem of an entity: lower case, words joined by hyphens."""
    return entity.lower().replace(" ", "-")


def split_of(task: str, entity: str, seed: int) -> str:
    """Assign an item to a split by hashing the seed, its task and its entity.

    Returns:
        "test" for the lowest TEST of all hash values, "validation" for the next VALIDATION, else "train".
    """
    digest = hashlib.sha256(f"{seed}/{task}/{entity}".encode()).digest()
    rank = int.from_bytes(digest[:8], "big") / 2**64
    if rank < TEST:
        return "test"
    return "validation" if rank < TEST + VALIDATION else "train"


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a fact table and check it.

    Returns:
        One dictionary per row, in the order of the file.

    Raises:
        TableError: A row has too few or too many fields, an empty one, or a repeated entity.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        values = [value for key, value in row.items() if key != "source"]
        if None in row or not all(values) or row["source"] is None:
            raise TableError(f"{path.name}: the row of {row['entity']!r} has a missing or an extra field.")
    for entity, count in Counter(row["entity"] for row in rows).items():
        if count > 1:
            raise TableError(f"{path.name}: {entity!r} stands there {count} times; keep one row.")
    return rows


def check_answers(name: str, items: list[dict[str, str]]) -> None:
    """Refuse answers of which prefix scoring could take one for another, or for the input.

    Raises:
        TableError: An answer is not a single word, is a prefix of another or of its input, or the reverse.
    """
    for item in items:
        given, answer = item["input"].casefold(), item["output"].casefold()
        if not answer.isalpha():
            raise TableError(f"{name}: the answer {item['output']!r} of {item['input']!r} is not a single word.")
        if given.startswith(answer) or answer.startswith(given):
            raise TableError(f"{name}: the answer {item['output']!r} can be copied from {item['input']!r}.")
    for short, long in permutations({item["output"].casefold() for item in items}, 2):
        if long.startswith(short):
            raise TableError(f"{name}: the answer {short!r} is a prefix of the answer {long!r}.")


def build_task(spec: dict[str, Any], tables: Path = HERE) -> dict[str, Any]:
    """Join a task's wording with its facts.

    Args:
        spec: One [[task]] of tasks.toml.
        tables: The folder of the fact tables.

    Returns:
        The content of the task's JSON file.
    """
    items = [
        {
            "input": row["entity"],
            "output": row[spec["column"]],
            "image": f"images/{spec['domain']}/{slug(row['entity'])}.png",
            "split": split_of(spec["name"], row["entity"], spec["seed"]),
        }
        for row in read_table(tables / spec["table"])
    ]
    check_answers(spec["name"], items)
    wording = {key: spec[key] for key in ("name", "domain", "instruction", "paraphrases", "task_words", "note")}
    return {**wording, "items": items}


def read_specs() -> list[dict[str, Any]]:
    """Return the entries of tasks.toml."""
    specs: list[dict[str, Any]] = tomllib.loads((HERE / "tasks.toml").read_text(encoding="utf-8"))["task"]
    return specs


def build_tasks() -> list[dict[str, Any]]:
    """Return the six tasks in the order of tasks.toml."""
    return [build_task(spec) for spec in read_specs()]


def to_json(task: dict[str, Any]) -> str:
    """Write a task as JSON with one line per item, so that a changed fact is one changed line."""
    items = ",\n    ".join(json.dumps(item, ensure_ascii=False) for item in task["items"])
    head = json.dumps({**task, "items": []}, ensure_ascii=False, indent=2)
    return head.replace('"items": []', f'"items": [\n    {items}\n  ]') + "\n"


def emoji_table() -> dict[str, str]:
    """Return the emoji of every picture, keyed by its path below the task folder."""
    found = {}
    for table, domain in {spec["table"]: spec["domain"] for spec in read_specs()}.items():
        for row in read_table(HERE / table):
            found[f"images/{domain}/{slug(row['entity'])}.png"] = row.get("emoji") or flag(row["iso"])
    return found


def write_pictures(out: Path, font_path: Path) -> int:
    """Draw every picture, remove those that no entity owns any more, and return how many there are."""
    font, emoji = load_font(font_path), emoji_table()
    for name, sequence in emoji.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(sequence, font, path.stem).save(path, optimize=True)
    for path in (out / "images").rglob("*.png"):
        if path.relative_to(out).as_posix() not in emoji:
            path.unlink()
    return len(emoji)


def stats(tasks: list[dict[str, Any]]) -> str:
    """Return a Markdown table: items per split, distinct answers, and the share of the commonest one."""
    lines = ["| task | items | train | validation | test | answers | commonest |", "| --- " * 7 + "|"]
    for task in tasks:
        splits = Counter(item["split"] for item in task["items"])
        answers = Counter(item["output"] for item in task["items"])
        [(word, count)] = answers.most_common(1)
        total = len(task["items"])
        sizes = " | ".join(str(splits[split]) for split in ("train", "validation", "test"))
        lines.append(f"| {task['name']} | {total} | {sizes} | {len(answers)} | {word} {count / total:.2f} |")
    return "\n".join(lines)


def main() -> int:
    """Write the tasks and their pictures, or print the counts; return the exit code."""
    parser = argparse.ArgumentParser(description="Build the six tasks that xmi ships.")
    parser.add_argument("--stats", action="store_true", help="print the table of counts and write nothing")
    parser.add_argument("--out", type=Path, default=OUT, help="the folder to write to (default: %(default)s)")
    parser.add_argument("--font", help="the file of Noto Color Emoji, if it is not in a usual place")
    args = parser.parse_args()
    try:
        tasks = build_tasks()
        if args.stats:
            print(stats(tasks))
            return 0
        font = find_font(args.font)
        if not is_shipped_font(font):
            print(f"note: {font} is another version of the font than the shipped pictures use.", file=sys.stderr)
        count = write_pictures(args.out, font)
    except (TableError, PictureError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for task in tasks:
        (args.out / f"{task['name']}.json").write_text(to_json(task), encoding="utf-8")
    print(f"{len(tasks)} tasks and {count} pictures written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
