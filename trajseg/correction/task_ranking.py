"""Built-in task strategies: by doubt and difference from corrected tasks, by doubt alone, and at random.

Doubt alone chooses the same trouble again and again: similar tasks are doubtful together, and one of them teaches much
of what the others would. Difference alone chooses outliers, whether or not the model is wrong there. So a task's value
is its doubt times its novelty: its distance from all corrected or chosen tasks.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from trajseg.correction.task_strategy import TaskFacts

IDLE = 0.1
"""Minimum value of any task: a model that is confidently wrong shows no doubt."""
REACH = 0.5
"""Distance at which a task counts as half new, as a share of the typical distance between two tasks."""


class DoubtAndDifference:
    """Chooses tasks one by one, each the most doubtful among what is new."""

    def choose(
        self, candidates: Sequence[TaskFacts], corrected: Sequence[TaskFacts], count: int, seed: int = 0
    ) -> list[int]:
        """See TaskStrategy."""
        pool = sorted(candidates, key=lambda task: task.task_id)
        if not pool:
            return []
        places = _scaled([task.features for task in (*pool, *corrected)])
        free, known = places[: len(pool)], places[len(pool) :]
        reach = REACH * _typical_distance(places)
        worth = np.array([IDLE + (1 - IDLE) * task.doubt for task in pool])
        new = np.ones(len(pool))
        for place in known:
            new = np.minimum(new, _novelty(free, place, reach))
        chosen: list[int] = []
        for _ in range(min(count, len(pool))):
            # If nothing is new, doubt decides.
            gain = worth * np.maximum(new, 1e-6)
            gain[chosen] = -1.0
            best = int(np.argmax(gain))
            chosen.append(best)
            new = np.minimum(new, _novelty(free, free[best], reach))
        return [pool[place].task_id for place in chosen]


class Doubt:
    """The most doubtful tasks."""

    def choose(
        self, candidates: Sequence[TaskFacts], corrected: Sequence[TaskFacts], count: int, seed: int = 0
    ) -> list[int]:
        """See TaskStrategy."""
        return [task.task_id for task in sorted(candidates, key=lambda task: (-task.doubt, task.task_id))[:count]]


class Random:
    """Random tasks: the baseline, and what an unbiased estimate of a project's quality needs."""

    def choose(
        self, candidates: Sequence[TaskFacts], corrected: Sequence[TaskFacts], count: int, seed: int = 0
    ) -> list[int]:
        """See TaskStrategy."""
        ids = sorted(task.task_id for task in candidates)
        return random.Random(seed).sample(ids, min(count, len(ids)))


def _scaled(features: Sequence[np.ndarray]) -> np.ndarray:
    """[N, D] with all columns scaled to the same spread; 0 for constant columns."""
    table = np.stack(features).astype(float)
    spread = table.std(axis=0)
    return np.where(spread > 1e-9, (table - table.mean(axis=0)) / np.maximum(spread, 1e-9), 0.0)


def _typical_distance(places: np.ndarray) -> float:
    """Median distance between two tasks, computed on at most a few hundred."""
    some = places[np.linspace(0, len(places) - 1, min(len(places), 300)).astype(int)]
    apart = np.linalg.norm(some[:, None] - some[None], axis=2)
    return float(np.median(apart[np.triu_indices(len(some), 1)])) if len(some) > 1 else 0.0


def _novelty(places: np.ndarray, place: np.ndarray, reach: float) -> np.ndarray:
    """Novelty of tasks at `places` [N, D] relative to one at `place`: 0 at it, 1/2 at the reach, towards 1 far away."""
    apart = np.linalg.norm(places - place, axis=1)
    return apart / (apart + reach) if reach > 0 else np.where(apart > 0, 1.0, 0.0)
