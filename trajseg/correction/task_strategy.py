"""Task strategies: choose the tasks that people should correct next; found by name.

For the frames of a track see trajseg.correction.strategy.

A strategy is one class and one line in TASK_STRATEGIES, or an entry point of the group `trajseg.task_strategies` in
your own package; `trajseg active --strategy` selects one. tests/contracts/task_strategy.py checks the rules:

* at most `count` candidates are chosen, each once, and nothing that is not a candidate;
* the choice depends only on the arguments: the same tasks and seed give the same choice, in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from trajseg.plugins import named_class

GROUP = "trajseg.task_strategies"


@dataclass(frozen=True)
class TaskFacts:
    """What is known about a task before anybody corrects it. Fields may be added.

    Args:
        task_id: its id.
        doubt: of its prediction, 0 (sure) to 1.
        features: float64 [D], its appearance: equally long for all tasks, and close for similar tasks.
    """

    task_id: int
    doubt: float
    features: np.ndarray


class TaskStrategy(Protocol):
    """Chooses tasks."""

    def choose(
        self, candidates: Sequence[TaskFacts], corrected: Sequence[TaskFacts], count: int, seed: int = 0
    ) -> list[int]:
        """The tasks most worth correcting, best first.

        Args:
            candidates: not corrected yet.
            corrected: already corrected.
            count: maximum number to choose.
            seed: for strategies with randomness.
        """


TASK_STRATEGIES: Mapping[str, str] = {
    "doubt-and-difference": "trajseg.correction.task_ranking:DoubtAndDifference",
    "doubt": "trajseg.correction.task_ranking:Doubt",
    "random": "trajseg.correction.task_ranking:Random",
}
"""By name, "module:class"."""


def load_task_strategy(name: str = "doubt-and-difference") -> TaskStrategy:
    """The strategy with this name.

    Raises:
        InputError: there is none, or it cannot be imported.
    """
    strategy: TaskStrategy = named_class("task strategy", name, TASK_STRATEGIES, GROUP)()
    return strategy
