"""What a page carries, unpacked."""

from __future__ import annotations

import base64
import gzip
import json
import re
from typing import Any

BLOCK = r'<script type="text/plain" (?:id="(\w+)"|class="(\w+)")>([A-Za-z0-9+/=]*)</script>'
KINDS = ("prompt", "layers", "image")


def carried(page: str, name: str) -> list[str]:
    """The packed texts of an id or a class, unpacked."""
    found = [text for id, kind, text in re.findall(BLOCK, page) if name in (id, kind)]
    return [gzip.decompress(base64.b64decode(text)).decode() for text in found]


def figures(page: str) -> dict[str, Any]:
    """The figures of a page, by their ids."""
    (text,) = carried(page, "figures")
    found: dict[str, Any] = json.loads(text)
    return found


def answers(page: str) -> dict[int, list[dict[str, Any]]]:
    """What each list of a page holds, by its number."""
    found: dict[int, list[dict[str, Any]]] = {}
    for block in map(json.loads, carried(page, "block")):
        strings = [part for part in block if isinstance(part, str)]
        other = {k: [part[k] for part in block if isinstance(part, dict) and k in part] for k in KINDS}
        for part in (part for part in block if isinstance(part, list)):
            number, prompt, label, seed, predicted, log_probability, rank, paper, last = part
            swept, segments = isinstance(predicted, list), other["prompt"][prompt]
            found.setdefault(number, []).append(
                {
                    "prompt": [{"text": strings[s]} if s >= 0 else {"image": other["image"][~s]} for s in segments],
                    "answer": strings[label],
                    "seed": seed,
                    "predicted": [strings[i] for i in predicted] if swept else strings[predicted],
                    "log_probability": log_probability,
                    "rank": rank,
                    "paper": [hit == "1" for hit in paper] if swept else bool(paper),
                    **({"layers": other["layers"][last]} if swept else {"strict": bool(last)}),
                }
            )
    return found
