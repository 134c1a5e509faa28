"""Where a study on a host ran, and what travelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xmi.study.experiments import registry
from xmi.study.results import StudyResults

VERSIONS = ("nnsight", "torch", "transformers", "python")
_Sums = tuple[float, ...]


def hosted(results: StudyResults) -> dict[str, Any] | None:
    """What the page says of the host.

    Returns:
        None for a study that ran here. Otherwise rows of texts: `models` (name, host, precision, device, versions,
        key), `kinds` and `total` (work, cells, requests, kB up, kB down, seconds), and `cells` (the same without the
        number of cells).
    """
    hosts = results.study.get("provenance", {}).get("hosts", {})
    cells: dict[str, _Sums] = {str(cell): tuple(sums) for cell, *sums in results.traffic().itertuples(index=False)}
    if not hosts and not cells:
        return None
    kinds: dict[str, list[_Sums]] = {}
    for cell, sums in cells.items():
        kinds.setdefault(cell.rpartition(".")[2], []).append(sums)
    return {
        "models": [_model(name, facts) for name, facts in hosts.items()],
        "kinds": [[_work(kind), str(len(parts)), *_sizes(parts)] for kind, parts in kinds.items()],
        "total": ["all", str(len(cells)), *_sizes(list(cells.values()))],
        "cells": [[cell, *_sizes([sums])] for cell, sums in cells.items()],
    }


def _work(kind: str) -> str:
    """What cells of a kind do; of one that this version of xmi does not know, its name."""
    known = registry().get(kind)
    return kind if known is None else known.work or known.doing or kind


def _model(name: str, facts: dict[str, Any]) -> list[str]:
    def of(*names: str) -> str:
        return " ".join(str(facts[n]) for n in names if facts.get(n))

    versions = ", ".join(f"{n} {facts[n]}" for n in VERSIONS if facts.get(n))
    return [name, of("host"), of("dtype"), of("device", "accelerator"), versions, of("model_key")]


def _sizes(parts: Sequence[_Sums]) -> list[str]:
    requests, up, down, seconds = (sum(column) for column in zip(*parts, strict=True)) if parts else (0, 0, 0, 0.0)
    return [f"{requests:.0f}", f"{up / 1000:,.1f}", f"{down / 1000:,.1f}", f"{seconds:.1f}"]
