"""Tasks: items with text, image and labels, and the prompts made of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from types import NoneType
from typing import Any
from unicodedata import category

from PIL import Image

from xmi.errors import TaskError
from xmi.faults import kind, listing, no_text, short, some
from xmi.names import INSTRUCTION, MODALITIES, NO_CONTEXT, SPLITS, icl
from xmi.prompt.pictures import thumbnail
from xmi.prompt.prompt import ChatPrompt, ChatTemplate, Prompt, Prompts, Segment, Template
from xmi.shown import Shown

LONGEST = 200
"""Characters of a task's name at most: files, columns and figures are named by it."""

BROKEN = "text with half of a character (a lone surrogate), which is not Unicode text."
"""What is said of text that cannot be written down."""


def whole(text: str) -> bool:
    """Whether a text can be encoded: a lone surrogate, of which JSON can tell, cannot."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


@dataclass(frozen=True)
class Item(Shown):
    """One item of a task.

    Attributes:
        input: The input as words.
        output: The label; examples show this one.
        image: The input as an image, or None.
        split: `train`, `validation` or `test`.
        alternatives: Further labels that count as right.
    """

    input: str
    output: str
    image: Path | None
    split: str
    alternatives: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses what is not text.

        Raises:
            TaskError: A field of another type.
        """
        texts = {"input": self.input, "output": self.output, "split": self.split}
        _check_texts("An item", texts, alternatives=self.alternatives)
        if not isinstance(self.image, (Path, str, Image.Image, NoneType)):
            raise TaskError(f"An item's image is a path; found {kind(self.image)}.")

    def _rows(self) -> list[dict[str, Any]]:
        picture = "" if self.image is None else thumbnail(self.image)
        return [{"input": self.input, "image": picture, "label": " | ".join(self.outputs), "split": self.split}]

    @property
    def outputs(self) -> tuple[str, ...]:
        """All labels that count as right, the canonical one first."""
        return (self.output, *self.alternatives)


@dataclass(frozen=True)
class Task(Shown):
    """A task that can be specified by text examples, image examples or an instruction.

    Attributes:
        name: Its name.
        items: All items.
        instructions: The instruction, then its paraphrases; may be empty.
        task_words: Words that name the task, for the phases.
        template: How prompts are written.
        examples: Split that examples are drawn from.
    """

    name: str
    items: tuple[Item, ...]
    instructions: tuple[str, ...] = ()
    task_words: tuple[str, ...] = ()
    template: Template = field(default_factory=Template)
    examples: str = "train"

    def __post_init__(self) -> None:
        """Refuses a name that nothing can be called by, and fields of other types.

        Raises:
            TaskError: The name is empty, too long or holds control characters, or a field is of another type.
        """
        texts = {"name": self.name, "examples": self.examples}
        _check_texts("A task", texts, instructions=self.instructions, task_words=self.task_words)
        if not self.name.strip() or len(self.name) > LONGEST or any(category(c) == "Cc" for c in self.name):
            raise TaskError(
                f"A task cannot be called {short(self.name)!r}: a name has 1 to {LONGEST} characters and no control "
                "characters. Give it another with name."
            )
        if not isinstance(self.template, Template):
            raise TaskError(f"A task's template is a Template; found {kind(self.template)}.")
        if wrong := [item for item in _several("A task's items", self.items) if not isinstance(item, Item)]:
            raise TaskError(f"A task's items are Items; found {kind(wrong[0])}.")
        if self.examples not in SPLITS:
            raise TaskError(f"Unknown split {short(self.examples)!r}; the splits are {', '.join(SPLITS)}.")

    def _rows(self) -> Iterator[dict[str, Any]]:
        return (row for item in self.items for row in item._rows())

    def split(self, name: str) -> tuple[Item, ...]:
        """Returns the items of a split.

        Raises:
            TaskError: Unknown or empty split.

        Examples:
            >>> [len(task.split(name)) for name in ("train", "validation", "test")]
            [65, 11, 19]
        """
        if name not in SPLITS:
            raise TaskError(f"Unknown split {short(repr(name))}; the splits are {', '.join(SPLITS)}.")
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
        r"""In-context-learning prompts: `shots` examples, then a query.

        Examples are drawn from the training items (or the split that `examples` names) without replacement and never
        hold the query's own item.

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

        Examples:
            >>> prompts = task.icl("text", shots=2, n=3)
            >>> len(prompts)
            3
            >>> prompts[0].text, prompts[0].answer
            ('Q:France\nA:Paris\n\nQ:Philippines\nA:Manila\n\nQ:Portugal\nA:', 'Lisbon')
        """
        target = query or modality
        self._check_modality(modality, target)
        _check_numbers(shots=shots, n=n, seed=seed)
        pool, asked = self.split(self.examples), self.split(split)
        if shots < 1:
            raise TaskError(
                f"icl needs at least one example, got shots={shots}; queries() makes prompts without examples."
            )
        if len(pool) < shots + (split == self.examples):
            kind = "training" if self.examples == "train" else self.examples
            raise TaskError(f"Task {self.name} has {len(pool)} {kind} items: too few for {shots} examples and a query.")
        rng = random.Random(f"icl/{self.name}/{modality}/{target}/{split}/{shots}/{seed}")
        prompts = []
        for item in _draw(asked, n, rng):
            segments = []
            for k, example in enumerate(rng.sample([i for i in pool if i.input != item.input], shots)):
                segments += self._pair(example, modality, k)
            prompts.append(self._prompt(segments, item, target))
        name = icl(modality) if target == modality else f"{icl(modality)}, {target} query"
        return self._prompts(prompts, name, shots=shots, seed=seed, split=split)

    def instruction(self) -> Prompts:
        """The instruction and its paraphrases, each a prompt of its own that ends in a colon.

        Raises:
            TaskError: The task has no instruction.

        Examples:
            >>> [prompt.text for prompt in task.instruction()][:1]
            ['The capital city of the country:']
        """
        if not self.instructions:
            raise TaskError(f"Task {self.name} has no instruction: put one into its file.")
        prompts = [self._made((Segment("instruction", text),)) for text in self.instructions]
        return self._prompts(prompts, INSTRUCTION)

    def queries(
        self,
        modality: str = "text",
        *,
        split: str = "test",
        n: int | None = None,
        seed: int = 0,
        instruction: bool = False,
    ) -> Prompts:
        r"""Context-free queries, the targets of a transfer.

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

        Examples:
            >>> queries = task.queries("image")
            >>> len(queries), queries[0].text, queries[0].answer
            (19, 'Q:<image>\nA:', 'Rome')
        """
        self._check_modality(modality)
        _check_numbers(n=n, seed=seed)
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
        return self._prompts(prompts, "instruction prompt" if instruction else NO_CONTEXT, seed=seed, split=split)

    def _prompts(
        self, prompts: list[Prompt], specification: str, shots: int = 0, seed: int = 0, split: str = ""
    ) -> Prompts:
        labels = tuple(dict.fromkeys(label for i in self.items for label in (i.output, *i.alternatives)))
        common = {"task": self.name, "template": self.template, "task_words": self.task_words, "labels": labels}
        return Prompts(tuple(prompts), specification, shots=shots, seed=seed, split=split, **common)  # type: ignore[arg-type]

    def _prompt(self, head: list[Segment], item: Item, modality: str) -> Prompt:
        t = self.template
        query = [Segment("prefix", t.prefix, query=True), _input(item, modality, None, self.name)]
        query.append(Segment("delimiter", t.delimiter, query=True))
        return self._made((*head, *query), item)

    def _made(self, segments: tuple[Segment, ...], item: Item | None = None) -> Prompt:
        """A prompt of the task, which a model's chat template frames if the task's template says so."""
        made = Prompt(segments, self.name)
        if item is not None:
            made = Prompt(segments, self.name, item.input, item.output, item.alternatives)
        return ChatPrompt(**vars(made), template=self.template) if isinstance(self.template, ChatTemplate) else made

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
                raise TaskError(f"Unknown modality {short(repr(modality))}; use one of {', '.join(MODALITIES)}.")


def check_task(
    *tasks: Task,
    shots: int,
    modalities: Sequence[str] = MODALITIES,
    splits: Sequence[str] = SPLITS,
    instruction: bool = False,
) -> None:
    """Checks that tasks hold what a study asks of them, before any model is loaded.

    Args:
        *tasks: The tasks.
        shots: Examples per prompt; their split must hold one item more.
        modalities: Modalities in which every item is shown.
        splits: Splits that must not be empty; the one that examples are drawn from is always looked at.
        instruction: Whether an instruction is needed.

    Raises:
        TaskError: Something is lacking; all faults of all tasks are listed.

    Examples:
        >>> xmi.check_task(task, shots=5)  # nothing is wrong
        >>> try:
        ...     xmi.check_task(task, shots=500)
        ... except xmi.TaskError as error:
        ...     print(str(error)[:60])
        The tasks have 1 fault(s):
          country-capital: 65 train item(
    """
    _check_numbers(shots=shots)
    for task in tasks:
        if not isinstance(task, Task):
            raise TaskError(f"Expected tasks, found {kind(task)}.")
    unknown = [name for name in (*modalities, *splits) if name not in (*MODALITIES, *SPLITS)]
    if unknown:
        raise TaskError(f"Unknown: {some(unknown)}; there are {', '.join((*MODALITIES, *SPLITS))}.")
    faults: list[str] = []
    for task in tasks:
        count: dict[str, int] = {split: sum(i.split == split for i in task.items) for split in SPLITS}
        if count[task.examples] < shots + 1:
            faults.append(
                f"{task.name}: {count[task.examples]} {task.examples} item(s), but {shots} shots need {shots + 1}: "
                "add items or use fewer shots."
            )
        lacking = [s for s in splits if not count[s] and not (s == "train" and task.examples != s)]
        faults += [f"{task.name}: no {split} items." for split in lacking if split != task.examples]
        blind = [item.input for item in task.items if item.image is None]
        if "image" in modalities and blind:
            faults.append(f"{task.name}: {len(blind)} item(s) without an image: {some(blind)}.")
        if instruction and not task.instructions:
            faults.append(
                f"{task.name}: no instruction: write one into its file, or into a sheet beside it ({task.name}.yaml: "
                'instruction: "..."), or leave instructions out of the sources.'
            )
    if faults:
        raise TaskError(f"The tasks have {len(faults)} fault(s):\n{listing(faults)}")


def _check_texts(what: str, texts: Mapping[str, object], **several: object) -> None:
    """Refuses what is not text.

    Raises:
        TaskError: A value is of another type, or holds half a character.
    """
    parts = [(name, value) for name, value in texts.items()]
    parts += [(name, value) for name, values in several.items() for value in _several(f"{what}'s {name}", values)]
    for name, value in parts:
        if not isinstance(value, str):
            raise TaskError(f"{what}'s {name}: {no_text(value)}")
        if not whole(value):
            raise TaskError(f"{what}'s {name}: {BROKEN}")


def _several(what: str, values: object) -> tuple[Any, ...]:
    if isinstance(values, (tuple, list)):
        return tuple(values)
    raise TaskError(f"{what}: expected several, found {kind(values)}.")


def _check_numbers(**numbers: object) -> None:
    """Refuses what is not a whole number; a number of prompts may also be None, and is at least 1.

    Raises:
        TaskError: A value is not a number, or too small.
    """
    for name, value in numbers.items():
        if isinstance(value, bool) or not (isinstance(value, Integral) or (name == "n" and value is None)):
            raise TaskError(f"{name}: expected a whole number, found {kind(value)}.")
        if name == "n" and isinstance(value, Integral) and value < 1:
            raise TaskError(f"n={value}: at least one prompt must be asked for, or None for all.")


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
