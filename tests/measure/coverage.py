"""How often the interval covers, and the test finds something: a simulation of two methods asked the same items.

`python -m tests.measure.coverage` prints the table of docs/statistics.md.
"""

from __future__ import annotations

import numpy as np

from xmi.measure.paired import paired

TASKS = np.repeat(list("abcdef"), 12)


def simulated(
    runs: int, rng: np.random.Generator, level: tuple[float, float], seeds: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Item-averaged differences [item, run] of two methods under several seeds, in six tasks of 12 items.

    Items differ in difficulty, which both methods and all seeds share; `level` is each method's chance of a hit on an
    item of middling difficulty.
    """
    shape = (len(TASKS), runs)
    hard = rng.beta(0.8, 0.8, shape) - 0.5
    chance = np.clip(np.array(level)[:, None, None] + hard, 0, 1)
    hits = rng.random((2, seeds, *shape)) < chance[:, None]
    return hits[0].mean(0) - hits[1].mean(0), TASKS


def main() -> None:
    """Prints the table."""
    rng = np.random.default_rng(0)
    print("| true difference | interval covers it | mean width | p < 0.05 |\n| ---: | ---: | ---: | ---: |")
    for level in ((0.5, 0.5), (0.99, 0.99), (0.6, 0.45), (0.97, 0.5), (1.3, -0.3)):
        truth = simulated(40_000, rng, level)[0].mean()
        found = paired(*simulated(4000, rng, level), resamples=1999)
        covers, width = np.mean((found.low <= truth) & (truth <= found.high)), np.mean(found.high - found.low)
        print(f"| {abs(truth):.3f} | {covers:.3f} | {width:.3f} | {np.mean(found.p < 0.05):.3f} |")


if __name__ == "__main__":
    main()
