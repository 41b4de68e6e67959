"""Simulated candidates of the gate, good and bad ones: `python -m tests.trajseg.training.rare_losses` prints a table.

It is that of docs/lab/0121-losses-that-were-not-seen.md: how often each is promoted by the interval alone, if its gain
must outlast one unseen loss, and if it must outlast three.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from trajseg.training.gain_interval import IntervalRules, confidence_interval
from trajseg.training.gate import RULED_OUT, UNSEEN_LOSSES, ClipPair, outlasts

MEASURED = (
    (-3, -6, 39, 75, 27, 34, -3, 8),
    (24, 43, 0, 43, 83, -3, 43, 72),
    (16, 80, 17, 43, 0, 97, 80, 97),
    (68, 86, 68, 94, 94, 86, 67, 0),
    (26, 0, 93, 25, 56, 26, 87, 0),
    (-45, 90, 85, 79, 90, 0, 85, 95),
    (49, 0, 75, -3, 37, 75),
    (16, 28, -28, 38, 0, -8, 0, 52),
    (-54, 0, 10, 2, 48, 0),
    (3, 18, 56, 0, 12, 37, 84, 8),
    (90, 79, -40, 48, 49, 50, 0),
    (86, 21, 47, 29, 57, 0, 47, 0),
)
"""Gains in hundredths of J&F of the candidate of a project of 40 corrected videos, expression by expression, on its 12
held-out videos; the base had 0.26 (docs/learning_results.md, `make proof-learning ARGS=--full`).
"""
RULES = IntervalRules(resamples=200)
ROWS = (0, UNSEEN_LOSSES, RULED_OUT)
Candidate = Callable[[np.random.Generator, int, int], tuple[np.ndarray, float]]
"""Gains [clips, expressions] of one candidate, and the served J&F."""


def loses(rate: float, mean: float, by_clip: bool = False) -> Candidate:
    """Loses 0.6 on this share of the expressions, or of the clips, and gains a little on all others; of 0.7 served."""
    little = (mean + 0.6 * rate) / (1 - rate)

    def gains(rng: np.random.Generator, clips: int, expressions: int) -> tuple[np.ndarray, float]:
        lost = rng.random((clips, 1 if by_clip else expressions)) < rate
        return np.where(lost, -0.6, little) + rng.normal(0, 0.02, (clips, expressions)), 0.7

    return gains


def improves(mean: float, between: float, within: float, served: float) -> Candidate:
    """Gains around a mean, with these spreads between clips and between the expressions of one."""

    def gains(rng: np.random.Generator, clips: int, expressions: int) -> tuple[np.ndarray, float]:
        of_clip = mean + rng.normal(0, between, (clips, 1))
        return np.clip(of_clip + rng.normal(0, within, (clips, expressions)), -served, 1.0), served

    return gains


def measured(rng: np.random.Generator, clips: int, expressions: int) -> tuple[np.ndarray, float]:
    """Clips of MEASURED, and expressions of each, drawn with replacement."""
    chosen = [np.asarray(MEASURED[clip]) for clip in rng.integers(0, len(MEASURED), clips)]
    return np.stack([rng.choice(gains, expressions) for gains in chosen]) / 100, 0.26


BAD: Mapping[str, Candidate] = {
    "one in ten fails, mean 0": loses(0.1, 0.0),
    "one in twenty fails, mean 0": loses(0.05, 0.0),
    "one in five fails, mean -0.08": loses(0.2, -0.08),
    "one clip in ten fails, mean 0": loses(0.1, 0.0, by_clip=True),
}
GOOD: Mapping[str, Candidate] = {
    "as measured, +0.36": measured,
    "like the unseen clips, +0.29": improves(0.29, 0.15, 0.35, 0.42),
    "+0.10": improves(0.1, 0.05, 0.1, 0.42),
    "a later round, +0.08": improves(0.08, 0.05, 0.12, 0.7),
    "a later round, +0.05": improves(0.05, 0.03, 0.06, 0.8),
}
SHAPES = ((3, 1), (5, 1), (8, 1), (10, 1), (20, 1), (3, 3), (5, 3), (8, 3), (3, 4), (5, 4), (3, 8), (5, 8))


def promoted(candidate: Candidate, clips: int, expressions: int, times: int, seed: int = 5) -> list[float]:
    """Share of such candidates whose gain is enough, for each of ROWS unseen losses."""
    rng, counts = np.random.default_rng(seed), [0] * len(ROWS)
    for _ in range(times):
        gains, served = candidate(rng, clips, expressions)
        if not confidence_interval(gains.tolist(), RULES).above_zero:
            continue
        pairs = [ClipPair(str(clip), served, served + gain, expressions) for clip, gain in enumerate(gains.mean(1))]
        for row, losses in enumerate(ROWS):
            counts[row] += outlasts(pairs, losses)
    return [count / times for count in counts]


def main(times: int = 300) -> None:
    """Prints the table, in percent: the interval alone / one unseen loss / three."""
    print("| candidate |" + "".join(f" {clips} x {expressions} |" for clips, expressions in SHAPES))
    print("|---|" + "---|" * len(SHAPES))
    for name, candidate in {**BAD, **GOOD}.items():
        cells = [" / ".join(f"{100 * each:.0f}" for each in promoted(candidate, *shape, times)) for shape in SHAPES]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
