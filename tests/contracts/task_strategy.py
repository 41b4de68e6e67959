"""The rules of trajseg.correction.task_strategy as tests: subclass TaskStrategyContract and give it a strategy."""

from __future__ import annotations

import numpy as np
import pytest

from trajseg.correction.task_strategy import TaskFacts, TaskStrategy


def some_tasks(count: int, first: int = 1) -> list[TaskFacts]:
    """Tasks of three kinds with made-up doubts."""
    rng = np.random.default_rng(first)
    return [
        TaskFacts(first + number, float(rng.random()), np.append(rng.normal(0, 0.1, 3) + number % 3, 1.0))
        for number in range(count)
    ]


class TaskStrategyContract:
    """The rules for every task strategy. A subclass named Test... has a fixture `strategy`."""

    @pytest.fixture
    def strategy(self) -> TaskStrategy:
        raise NotImplementedError("Give the strategy to check.")

    def test_it_chooses_different_candidates_and_no_more_than_it_may(self, strategy: TaskStrategy) -> None:
        candidates = some_tasks(12)
        for count in (0, 1, 5, 12, 40):
            chosen = strategy.choose(candidates, some_tasks(4, 100), count)
            assert len(chosen) == len(set(chosen)) == min(count, 12)
            assert set(chosen) <= {task.task_id for task in candidates}

    def test_nothing_but_the_arguments_decides(self, strategy: TaskStrategy) -> None:
        candidates, corrected = some_tasks(12), some_tasks(4, 100)
        assert strategy.choose(candidates, corrected, 5, 3) == strategy.choose(candidates[::-1], corrected, 5, 3)

    def test_without_candidates_nothing_is_chosen_and_without_corrections_something_is(
        self, strategy: TaskStrategy
    ) -> None:
        assert strategy.choose([], some_tasks(4), 5) == []
        assert len(strategy.choose(some_tasks(4), [], 2)) == 2

    def test_tasks_that_look_the_same_are_no_error(self, strategy: TaskStrategy) -> None:
        alike = [TaskFacts(number, 0.5, np.zeros(3)) for number in range(4)]
        assert len(strategy.choose(alike, alike[:0], 3)) == 3
        assert len(strategy.choose(alike[:3], alike[3:], 3)) == 3
