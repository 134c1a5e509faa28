"""A first look at transfer from text to image, for some tasks: minutes, where the study takes half an hour.

    python -m analyses.pretrained.first_look        # prints the table, which stands in docs/pretrained.md

For text and for image queries: no context, five text examples as a prompt, five image examples as a prompt, and the
vector of 30 prompts of text examples patched in after the layer that validation items choose. Whole labels, test items,
Wilson's 95 % intervals.
"""

from __future__ import annotations

import argparse

import xmi

TASKS = ("plural", "capitalize", "category", "living")
TOKENS = 8


def rows(vlm: xmi.VLM, name: str) -> list[tuple[str, ...]]:
    """Asks for one task.

    Args:
        vlm: The model.
        name: The task.

    Returns:
        For text and for image queries: task, query, the accuracies without context, of both prompts and of the
        patch with their intervals, and the layer.
    """
    task = xmi.task(name)
    vector = vlm.task_vector(task.icl("text", shots=5, n=30))
    layers = [*range(1, vlm.backbone.n_layers, 2)]
    found = []
    for query in ("text", "image"):
        asked = {split: task.queries(query, split=split) for split in ("validation", "test")}
        none = vlm.answers(asked["test"], max_new_tokens=TOKENS).accuracy("whole")
        prompts = [
            vlm.answers(task.icl(shown, query=query, split="test", n=None), max_new_tokens=TOKENS).accuracy("whole")
            for shown in ("text", "image")
        ]
        chosen = vlm.transfer(vector, to=asked["validation"], layers=layers, max_new_tokens=TOKENS)
        layer = int(chosen.best_layer_of(None, "whole"))
        patch = vlm.transfer(vector, to=asked["test"], layers=[layer], max_new_tokens=TOKENS).accuracy(
            layer=layer, score="whole"
        )
        found.append((name, query, *map(str, (none, *prompts, patch, layer))))
    return found


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m analyses.pretrained.first_look", description=(__doc__ or "")[:95])
    parser.add_argument("--model", default="pretrained")
    parser.add_argument("--dtype", default="bfloat16", help="its precision")
    args = parser.parse_args()
    vlm = xmi.load(args.model, dtype=args.dtype)
    print("| task | query | no context | text examples | image examples | text vector patched | after layer |")
    print("| --- | --- | --- | --- | --- | --- | ---: |")
    for name in TASKS:
        for row in rows(vlm, name):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
