"""Accuracies of all models: as a table that can be sorted, and as one transfer matrix per model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xmi.measure.summaries import proportion, row_of
from xmi.names import (
    CONTROLS,
    IMAGE_ICL,
    INSTRUCTION,
    MODALITIES,
    NO_CONTEXT,
    RANDOM,
    TEXT_ICL,
    of_base,
    without_control,
)
from xmi.report.atlas.models import Number, Studied, Table
from xmi.study.plan import SOURCES

COLUMNS = (
    (NO_CONTEXT, NO_CONTEXT, NO_CONTEXT),
    ("text examples in the prompt", "prompt", TEXT_ICL),
    ("image examples in the prompt", "prompt", IMAGE_ICL),
    ("text vector patched in", "patch", TEXT_ICL),
    ("image vector patched in", "patch", IMAGE_ICL),
    ("instruction vector patched in", "patch", INSTRUCTION),
    ("base LLM's text vector patched in", "patch", of_base(TEXT_ICL)),
    ("random vector patched in", "patch", RANDOM),
)
"""Label, method and source of the accuracies; each stands once per modality of the query."""


def accuracies(models: Sequence[Studied]) -> Table | None:
    """The accuracies of every model by method and modality of the query."""
    rows = []
    for one in models:
        table = one.results.summary(one.model)
        found = [row_of(table, method, source, t) for _, method, source in COLUMNS for t in MODALITIES]
        rows.append(tuple(_number(one, row, "accuracy") for row in found))
    groups = tuple((label, tuple(f"{t} query" for t in MODALITIES)) for label, *_ in COLUMNS)
    return Table("accuracies", "Accuracies", groups, tuple(rows)).known()


def matrices(models: Sequence[Studied]) -> list[dict[str, Any]]:
    """The transfer matrix of each model: every source of the page against the modality of the query.

    Returns:
        Per model `{"model", "rows"}`, a row being a name, whether it is a control, and a number per modality.
    """
    tables = [one.results.summary(one.model) for one in models]
    patched = {source for table in tables for source in table[table["method"] == "patch"]["source"]}
    known = [source for source in (*SOURCES, *CONTROLS) if source in patched]
    sources = [(s, "patch") for s in (*known, *sorted(patched - set(known)))]
    return [
        {
            "model": one,
            "rows": [
                {
                    "name": without_control(source),
                    "level": source in CONTROLS or method == NO_CONTEXT,
                    "cells": [
                        _number(one, row_of(table, method, source, t), f"panel-transfer-{t}" if patch else "accuracy")
                        for t in MODALITIES
                    ],
                }
                for source, method in [*sources, (NO_CONTEXT, NO_CONTEXT)]
                for patch in [method == "patch"]
            ],
        }
        for one, table in zip(models, tables, strict=True)
        if not table[table["method"] == "patch"].empty
    ]


def _number(one: Studied, row: dict[str, Any] | None, anchor: str) -> Number | None:
    if row is None:
        return None
    value, layer = proportion(row), one.layer(row.get("layer"))
    return Number.of(value.mean, value.low, value.high, layer, f"n = {value.n}", anchor=anchor, share=value.mean)
