"""What chooses the tasks that people should correct next: a strategy, by name.

For the frames of a track see trajseg.correction.strategy.

A strategy is one class and one line in TASK_STRATEGIES, or an entry point of the group `trajseg.task_strategies` in a
package of your own; `trajseg active --strategy` names the one in use. tests/contracts/task_strategy.py holds the rules:

* at most `count` candidates are chosen, each once, and none that is not a candidate;
* nothing but the arguments decides: the same tasks and seed give the same choice, in whatever order they come.
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
    """What is known of a task before anybody corrects it. Fields may be added.

    Args:
        task_id: names it.
        doubt: of its prediction, 0 (sure) to 1.
        features: float64 [D], what it looks like: equally long for all tasks, and near where tasks are alike.
    """

    task_id: int
    doubt: float
    features: np.ndarray


class TaskStrategy(Protocol):
    """Chooses tasks."""

    def choose(
        self, candidates: Sequence[TaskFacts], corrected: Sequence[TaskFacts], count: int, seed: int = 0
    ) -> list[int]:
        """The tasks most worth correcting, the best first.

        Args:
            candidates: that nobody has corrected.
            corrected: that people have corrected.
            count: to choose, at most.
            seed: where chance plays a part.
        """


TASK_STRATEGIES: Mapping[str, str] = {
    "doubt-and-difference": "trajseg.correction.task_ranking:DoubtAndDifference",
    "doubt": "trajseg.correction.task_ranking:Doubt",
    "random": "trajseg.correction.task_ranking:Random",
}
"""By name, "module:class"."""


def load_task_strategy(name: str = "doubt-and-difference") -> TaskStrategy:
    """The strategy of that name.

    Raises:
        InputError: there is none, or it cannot be imported.
    """
    strategy: TaskStrategy = named_class("task strategy", name, TASK_STRATEGIES, GROUP)()
    return strategy
