"""What a cell asked and was answered, as records, with the images that they name."""

from __future__ import annotations

import hashlib
import io
import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from xmi.measure import Answers, Transfer
from xmi.measure.answers import hits_of
from xmi.names import NO_CONTEXT
from xmi.prompt import Prompt, Prompts

if TYPE_CHECKING:
    from xmi.study.grid import Cell


class Book:
    """Collects a cell's records and the images they name."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.records: list[dict[str, Any]] = []
        self.images: dict[str, bytes] = {}
        self._names: dict[Path, str] = {}

    def prompted(self, source: str, target: str, prompts: Prompts, result: Answers) -> None:
        """Records the answers to prompts, or to context-free queries."""
        whole = hits_of(result, "whole") if result.continuations else ()
        for i, prompt in enumerate(prompts):
            method = NO_CONTEXT if source == NO_CONTEXT else "prompt"
            self._add(
                prompt,
                {"split": prompts.split, "method": method, "source": source, "target": target},
                predicted=result.predicted[i],
                log_probability=round(float(result.log_probability[i]), 5),
                rank=int(result.rank[i]),
                paper=bool(result.paper[i]),
                strict=bool(result.strict[i]),
                **({"whole": bool(whole[i]), "continuation": result.continuations[i]} if result.continuations else {}),
            )

    def patched(self, target: str, prompts: Prompts, result: Transfer) -> None:
        """Records a sweep: one record per source and query, its answers as lists over layers."""
        whole = hits_of(result, "whole") if result.continuations else None
        for s, source in enumerate(result.sources):
            for i, prompt in enumerate(prompts):
                self._add(
                    prompt,
                    {"split": prompts.split, "method": "patch", "source": source, "target": target},
                    layers=list(result.layers),
                    predicted=[result.predicted[s][k][i] for k in range(len(result.layers))],
                    log_probability=[round(v, 5) for v in result.log_probability[s, :, i].tolist()],
                    rank=result.rank[s, :, i].tolist(),
                    paper=result.paper[s, :, i].tolist(),
                    strict=result.strict[s, :, i].tolist(),
                    **({} if whole is None else {"whole": whole[s, :, i].tolist()}),
                )

    def _add(self, prompt: Prompt, what: dict[str, Any], **measured: Any) -> None:
        head = {"model": self.cell.model, "seed": self.cell.seed, "task": prompt.task, **what}
        shown = {
            "unit": prompt.unit,
            "input": prompt.input,
            "answer": prompt.answer,
            **({"alternatives": list(prompt.alternatives)} if prompt.alternatives else {}),
            "prompt": self._segments(prompt),
        }
        identity = json.dumps([head, shown], sort_keys=True, ensure_ascii=False)
        key = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.records.append({"key": key, **head, **shown, **measured})

    def _segments(self, prompt: Prompt) -> list[dict[str, str]]:
        merged: list[dict[str, str]] = []
        for segment in prompt.shown:
            if segment.image is not None:
                merged.append({"image": self._image(Path(str(segment.image)))})
            elif merged and "text" in merged[-1]:
                merged[-1]["text"] += segment.text
            else:
                merged.append({"text": segment.text})
        return merged

    def _image(self, path: Path) -> str:
        if path not in self._names:
            content = thumbnail(path)
            name = hashlib.sha256(content).hexdigest()[:16] + ".png"
            self._names[path] = name
            self.images[name] = content
        return self._names[path]


@lru_cache(maxsize=4096)
def thumbnail(path: Path) -> bytes:
    """A copy of an image for the report, at most 96 px wide or high, as PNG."""
    with Image.open(path) as picture:
        if picture.format == "PNG" and max(picture.size) <= 96:
            return path.read_bytes()
        small = picture.convert("RGBA" if picture.mode in ("RGBA", "LA", "P") else "RGB")
        small.thumbnail((96, 96))
        buffer = io.BytesIO()
        small.save(buffer, "PNG")
        return buffer.getvalue()
