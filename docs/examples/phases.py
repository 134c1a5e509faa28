"""Phases of a model over xmi's tasks: words found automatically, boundaries with intervals, a tuned lens."""

import argparse
import time

import xmi
from xmi.measure import Phases, merge
from xmi.measure.phases import boundaries


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model", nargs="?", default="organism")
    vlm = xmi.load(options.parse_args().model)
    tasks = [xmi.task(name) for name in xmi.task_names()]

    # Words are found, and the lens is trained, on training queries; phases are measured on test queries.
    train = [task.icl(modality) for task in tasks for modality in ("text", "image")]
    labels = [word for task in tasks for item in task.items for word in (item.input, item.output)]
    words = vlm.find_task_words(train, exclude=labels)
    print(words.to_frame().round(3).to_string(index=False), "\n")

    start = time.perf_counter()
    lens = vlm.tune_lens(train)
    print(f"tuned on {lens.card.tokens} tokens of {lens.card.prompts} prompts in {time.perf_counter() - start:.0f} s")
    print(lens.to_frame().round(3).to_string(index=False), "\n")

    measured: list[Phases] = []
    for kind, how in (("given words", {}), ("found words", {"task_words": words}), ("tuned lens", {"lens": lens})):
        for modality in ("text", "image"):
            parts = [vlm.phases(task.icl(modality, split="test", n=None), **how) for task in tasks]
            measured.append(merge(f"{modality} ICL, {kind}", parts))
    apart = [vlm.phases(task.icl("text", split="test", n=None)) for task in tasks]
    for found in (boundaries(measured), boundaries(apart)):
        table = found.to_frame().drop(columns=["model", "relative_low", "relative_high"])
        print(table.round(2).to_string(index=False), "\n")


if __name__ == "__main__":
    main()
