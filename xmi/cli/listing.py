"""What there is to study: tasks and models, as tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from xmi.names import ASSEMBLED, EMBEDDED, SPLITS, TASK_FOLDERS
from xmi.terminal import put, put_table

ABOUT = {
    "organism": "tiny VLM trained from scratch, whose task vectors work",
    "organism-llm": "the LLM that it was made from",
    "organism-control": "tiny VLM of the same size, whose task vectors are far weaker",
    "pretrained": "SmolLM2-135M with an eye, whose task vectors nobody put there",
    "pretrained-llm": "the LLM in it",
    "pretrained-control": "the same VLM with its projector's inputs shuffled: it cannot see",
}
"""What the models of xmi are."""


def list_tasks(sources: Sequence[str]) -> None:
    """Prints a row for each task: items, splits, images, instruction.

    Args:
        sources: Tasks by name or file; none stands for all of xmi's.

    Raises:
        TaskError: A task cannot be read; all its faults are listed.
    """
    from xmi.prompt import load_task, task_names

    rows = []
    for source in sources or [name for of in TASK_FOLDERS for name in task_names(of)]:
        task = load_task(source)
        counts = [sum(item.split == split for item in task.items) for split in SPLITS]
        seen = sum(item.image is not None for item in task.items)
        images = "all" if seen == len(task.items) else str(seen) if seen else "none"
        told = task.instructions[0] if task.instructions else "-"
        rows.append((task.name, " / ".join(map(str, counts)), images, task.items[0].input, task.items[0].output, told))
    columns = [f"items ({' / '.join(SPLITS)})", "images", "an input", "its label", "instruction"]
    put_table("Tasks", ["task", *columns], rows, width=140)
    if not sources:
        put("xmi tasks FILE looks at one of your own; docs/data.md says what it may be.")


def list_models() -> None:
    """Prints the models of xmi, and those that the Hub's cache holds."""
    home = files("xmi") / "data" / "organism"
    rows = [
        (name, ABOUT[name], *_shape(json.loads((home / folder / "config.json").read_text("utf-8"))), "embedded")
        for name, folder in EMBEDDED.items()
    ]
    rows += [
        (
            name,
            ABOUT[name],
            "LLM" if folder == "llm" else "VLM",
            "30 x 576",
            "made of packages (100 MB) when first asked for",
        )
        for name, folder in ASSEMBLED.items()
    ]
    rows += [(name, "", *_shape(config), f"{size / 1e9:.1f} GB in the Hub's cache") for name, config, size in _cached()]
    put_table("Models", ["name", "what it is", "kind", "layers x width", "where"], rows, width=140)
    put("Any autoregressive VLM or LLM of transformers will do, by its Hub id or folder: xmi check MODEL tells.")


def _cached() -> Iterator[tuple[str, dict[str, Any], int]]:
    """Models of the Hub on this machine: id, configuration and bytes."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        found = scan_cache_dir().repos
    except CacheNotFound:
        return
    for repo in sorted(found, key=lambda repo: repo.repo_id):
        configs = [Path(file.file_path) for r in repo.revisions for file in r.files if file.file_name == "config.json"]
        if repo.repo_type == "model" and configs:
            try:
                config = json.loads(configs[0].read_text("utf-8"))
            except (OSError, ValueError):
                continue
            yield repo.repo_id, config if isinstance(config, dict) else {}, repo.size_on_disk


def _shape(config: dict[str, Any]) -> tuple[str, str]:
    """Whether a model sees, and how large its language backbone is, as its configuration says."""
    inner = config.get("text_config")
    text = inner if isinstance(inner, dict) else config
    layers, width = text.get("num_hidden_layers"), text.get("hidden_size")
    seeing = any(name in config for name in ("vision_config", "visual", "vq_config"))
    return "VLM" if seeing else "LLM", f"{layers} x {width}" if layers and width else "?"
