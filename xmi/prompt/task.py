"""Tasks: items with text, image and answer, read from one JSON file each, ours and the user's alike.

Format of a task file (`image` is relative to the file's folder; without `split` an item is `train`)::

    {"name": "country-capital", "instruction": "The capital city of the country:",
     "paraphrases": ["What is the capital of this country:"], "task_words": ["capital"],
     "items": [{"input": "Greece", "output": "Athens", "image": "images/greece.png", "split": "test"}]}
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, ValidationError

from xmi.errors import TaskError
from xmi.prompt.prompt import Prompt, Prompts, Segment, Template

SPLITS = ("train", "validation", "test")
MODALITIES = ("text", "image")


class _ItemFile(BaseModel):
    model_config = ConfigDict(extra="ignore")
    input: str
    output: str
    image: str | None = None
    split: str = "train"


class _TaskFile(BaseModel):
    model_config = ConfigDict(extra="ignore")
    name: str | None = None
    instruction: str | None = None
    paraphrases: list[str] = []
    task_words: list[str] = []
    items: list[_ItemFile]


@dataclass(frozen=True)
class Item:
    """One item of a task: an input as words and as an image, and its answer."""

    input: str
    output: str
    image: Path | None
    split: str


@dataclass(frozen=True)
class Task:
    """A task that can be specified by text examples, image examples or an instruction.

    Attributes:
        name: Its name.
        items: All items.
        instructions: The instruction, then its paraphrases; may be empty.
        task_words: Words that name the task, for the phases.
        template: How prompts are written.
    """

    name: str
    items: tuple[Item, ...]
    instructions: tuple[str, ...] = ()
    task_words: tuple[str, ...] = ()
    template: Template = field(default_factory=Template)

    def split(self, name: str) -> tuple[Item, ...]:
        """Returns the items of a split.

        Raises:
            TaskError: Unknown or empty split.
        """
        if name not in SPLITS:
            raise TaskError(f"Unknown split {name!r}; the splits are {', '.join(SPLITS)}.")
        found = tuple(i for i in self.items if i.split == name)
        if not found:
            raise TaskError(f'Task {self.name} has no {name} items: give some items of its file "split": "{name}".')
        return found

    def icl(
        self,
        modality: str = "text",
        *,
        shots: int = 5,
        n: int | None = 30,
        seed: int = 0,
        split: str = "train",
        query: str | None = None,
    ) -> Prompts:
        """In-context-learning prompts: `shots` examples, then a query.

        Examples are drawn from the training items without replacement and never hold the query's own item.

        Args:
            modality: `text` or `image`, of the examples.
            shots: Examples per prompt.
            n: Number of prompts; None asks every item of the split once.
            seed: Seed of the drawing.
            split: Where the queries come from. Task vectors are read on `train` queries, so that they know
                nothing of the items they are tested on.
            query: Modality of the query, by default that of the examples; the other one makes a cross-modal
                prompt (xBase).

        Returns:
            The prompts, each ending in the template's delimiter.

        Raises:
            TaskError: Unknown modality or split, too few items, or an item without an image.
        """
        target = query or modality
        self._check_modality(modality, target)
        pool, asked = self.split("train"), self.split(split)
        if shots < 1:
            raise TaskError(f"icl needs at least one example, got shots={shots}; queries() makes prompts without.")
        if len(pool) < shots + (split == "train"):
            raise TaskError(
                f"Task {self.name} has {len(pool)} training items: too few for {shots} examples and a query."
            )
        rng = random.Random(f"icl/{self.name}/{modality}/{target}/{split}/{shots}/{seed}")
        prompts = []
        for item in _draw(asked, n, rng):
            segments = []
            for k, example in enumerate(rng.sample([i for i in pool if i.input != item.input], shots)):
                segments += self._pair(example, modality, k)
            prompts.append(self._prompt(segments, item, target))
        name = f"{modality} ICL" if target == modality else f"{modality} ICL, {target} query"
        return self._prompts(prompts, name, shots=shots, seed=seed, split=split)

    def instruction(self) -> Prompts:
        """The instruction and its paraphrases, each a prompt of its own that ends in a colon.

        Raises:
            TaskError: The task has no instruction.
        """
        if not self.instructions:
            raise TaskError(f"Task {self.name} has no instruction: put one into its file.")
        prompts = [Prompt((Segment("instruction", text),), task=self.name) for text in self.instructions]
        return self._prompts(prompts, "instruction")

    def queries(
        self,
        modality: str = "text",
        *,
        split: str = "test",
        n: int | None = None,
        seed: int = 0,
        instruction: bool = False,
    ) -> Prompts:
        """Context-free queries, the targets of a transfer.

        Args:
            modality: `text` or `image`.
            split: Where the items come from.
            n: Number of queries, drawn with `seed`; None asks every item of the split once, in order.
            seed: Seed of the drawing.
            instruction: Put the task's instruction before the query (the prompting baseline).

        Returns:
            The prompts, each ending in the template's delimiter.

        Raises:
            TaskError: Unknown modality or split, or an item without an image.
        """
        self._check_modality(modality)
        if instruction and not self.instructions:
            raise TaskError(f"Task {self.name} has no instruction: put one into its file.")
        rng = random.Random(f"queries/{self.name}/{modality}/{split}/{seed}")
        head: list[Segment] = []
        if instruction:
            head = [
                Segment("instruction", self.instructions[0]),
                Segment("separator", self.template.separator),
            ]
        prompts = [self._prompt(head, item, modality) for item in _draw(self.split(split), n, rng)]
        return self._prompts(prompts, "instruction prompt" if instruction else "no context", seed=seed, split=split)

    def _prompts(
        self, prompts: list[Prompt], specification: str, shots: int = 0, seed: int = 0, split: str = ""
    ) -> Prompts:
        common = {"task": self.name, "template": self.template, "task_words": self.task_words}
        return Prompts(tuple(prompts), specification, shots=shots, seed=seed, split=split, **common)  # type: ignore[arg-type]

    def _prompt(self, head: list[Segment], item: Item, modality: str) -> Prompt:
        t = self.template
        query = [Segment("prefix", t.prefix, query=True), _input(item, modality, None, self.name)]
        query.append(Segment("delimiter", t.delimiter, query=True))
        return Prompt((*head, *query), self.name, item.input, item.output)

    def _pair(self, item: Item, modality: str, k: int) -> list[Segment]:
        t = self.template
        return [
            Segment("prefix", t.prefix, example=k),
            _input(item, modality, k, self.name),
            Segment("delimiter", t.delimiter, example=k),
            Segment("answer", item.output, example=k),
            Segment("separator", t.separator, example=k),
        ]

    def _check_modality(self, *modalities: str) -> None:
        for modality in modalities:
            if modality not in MODALITIES:
                raise TaskError(f"Unknown modality {modality!r}; use one of {', '.join(MODALITIES)}.")


def task_names() -> tuple[str, ...]:
    """Returns the names of the tasks that come with xmi."""
    return tuple(sorted(p.name.removesuffix(".json") for p in _home().iterdir() if p.name.endswith(".json")))


def load_task(source: str | Path, *, template: Template | None = None) -> Task:
    """Loads one of xmi's tasks by name, or a task of the user's own from a JSON file.

    Args:
        source: A name such as `country-capital`, or the path of a task file.
        template: How its prompts are written, by default as in the paper.

    Returns:
        The task. Every image was opened once, so that a broken one shows now and not hours later.

    Raises:
        TaskError: Unknown name, unreadable file, or faulty items; all faults are listed at once.
    """
    path = Path(source).expanduser()
    if not path.suffix:
        path = _home() / f"{source}.json"
        if not path.is_file():
            raise TaskError(f"No task {str(source)!r}. xmi has: {', '.join(task_names())}; or give a JSON file.")
    try:
        content = _TaskFile.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"Cannot read the task file {path}: {error}") from error
    except ValidationError as error:
        faults = "\n".join(f"  {'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()[:20])
        raise TaskError(f"{path} is not a task file:\n{faults}") from error
    items, faults_found = _items(content, path.parent)
    if faults_found:
        listing = "\n".join(f"  {fault}" for fault in faults_found)
        raise TaskError(f"{path} has {len(faults_found)} fault(s):\n{listing}")
    instructions = (content.instruction, *content.paraphrases) if content.instruction else ()
    name = content.name or path.stem
    return Task(name, items, instructions, tuple(content.task_words), template or Template())


def _items(content: _TaskFile, root: Path) -> tuple[tuple[Item, ...], list[str]]:
    items: list[Item] = []
    faults: list[str] = []
    seen: set[str] = set()
    for number, raw in enumerate(content.items):
        label = f"items[{number}] ({raw.input or 'no input'})"
        if not raw.input.strip() or not raw.output.strip():
            faults.append(f"{label}: empty {'input' if not raw.input.strip() else 'output'}.")
        if raw.input in seen:
            faults.append(f"{label}: the input occurs twice; splits must be disjoint.")
        if raw.split not in SPLITS:
            faults.append(f"{label}: unknown split {raw.split!r}; use one of {', '.join(SPLITS)}.")
        seen.add(raw.input)
        image = None
        if raw.image is not None:
            image = (root / raw.image).resolve()
            fault = _image_fault(image, root.resolve())
            faults += [f"{label}: image {raw.image!r} {fault}"] if fault else []
        items.append(Item(raw.input, raw.output, image, raw.split))
    if not items:
        faults.append("no items.")
    return tuple(items), faults


def _image_fault(path: Path, root: Path) -> str | None:
    if not path.is_relative_to(root):
        return "lies outside the task file's folder."
    if not path.is_file():
        return "does not exist."
    try:
        with Image.open(path) as image:
            image.verify()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        return f"cannot be opened as an image ({type(error).__name__})."
    return None


def _draw(items: tuple[Item, ...], n: int | None, rng: random.Random) -> list[Item]:
    """All items in order, or n of them: without replacement as long as there are enough."""
    if n is None:
        return list(items)
    drawn: list[Item] = []
    while len(drawn) < n:
        drawn += rng.sample(items, min(len(items), n - len(drawn)))
    return drawn


def _input(item: Item, modality: str, example: int | None, task: str) -> Segment:
    if modality == "text":
        return Segment("input", item.input, example=example, query=example is None)
    if item.image is None:
        raise TaskError(f"Item {item.input!r} of task {task} has no image: add one to its file or use text.")
    return Segment("input", image=item.image, example=example, query=example is None)


def _home() -> Path:
    return Path(str(files("xmi") / "data" / "tasks"))
