"""The contract of task strategies; the default one teaches a simulated model more than random choice."""

from __future__ import annotations

import numpy as np
import pytest

from tests.contracts.task_strategy import TaskStrategyContract
from trajseg.correction.task_strategy import TaskFacts, TaskStrategy, load_task_strategy
from trajseg.errors import InputError

STYLES, TASKS, BUDGET, ROUNDS, SEEDS = 8, 160, 20, 4, 40


class TestDoubtAndDifference(TaskStrategyContract):
    @pytest.fixture
    def strategy(self) -> TaskStrategy:
        return load_task_strategy()


class TestDoubt(TaskStrategyContract):
    @pytest.fixture
    def strategy(self) -> TaskStrategy:
        return load_task_strategy("doubt")


class TestRandom(TaskStrategyContract):
    @pytest.fixture
    def strategy(self) -> TaskStrategy:
        return load_task_strategy("random")


def test_an_unknown_strategy_names_those_that_there_are() -> None:
    with pytest.raises(InputError, match="doubt-and-difference"):
        load_task_strategy("oracle")


def test_the_same_trouble_is_not_chosen_twice_and_what_is_corrected_is_passed_over() -> None:
    here, there, away = np.zeros(2), np.array([5.0, 0.0]), np.array([0.0, 5.0])
    tasks = [TaskFacts(1, 0.9, here), TaskFacts(2, 0.88, here), TaskFacts(3, 0.5, there), TaskFacts(4, 0.1, away)]
    assert load_task_strategy("doubt").choose(tasks, [], 2) == [1, 2]
    assert load_task_strategy().choose(tasks, [], 2) == [1, 3]
    assert load_task_strategy().choose(tasks, [TaskFacts(9, 0.9, here)], 1) == [3]


class SimulatedProject:
    """Tasks of several styles, some of them rare, and a learner fitted to the corrected ones.

    The model's error on a task is a smooth function of the task's properties, larger in some styles than in others. The
    learner is kernel ridge regression on a distorted, noisy view of them. Strategies get the same view, and as doubt
    the remaining error plus noise.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        style = rng.choice(STYLES, TASKS, p=rng.dirichlet(np.full(STYLES, 0.7)))
        nature = rng.normal(0, 1, (STYLES, 4))[style] + rng.normal(0, 0.4, (TASKS, 4))
        self.view = np.tanh(nature @ rng.normal(0, 0.6, (4, 6))) + rng.normal(0, 0.05, (TASKS, 6))
        waves = np.cos(nature @ rng.normal(0, 0.7, (4, 12)) + rng.uniform(0, 6, 12)) @ rng.normal(0, 0.3, 12)
        self.wrong = rng.uniform(0.1, 1.0, STYLES)[style] * (0.4 + 0.3 * waves)
        self.noise = rng.normal(0, 0.1, (ROUNDS, TASKS))
        apart = np.linalg.norm(self.view[:, None] - self.view[None], axis=2)
        self.kernel = np.exp(-((apart / np.median(apart)) ** 2) * 2)
        self.corrected: list[int] = []

    def errors(self) -> np.ndarray:
        """Remaining error of each task after fitting the learner, [TASKS]."""
        if not self.corrected:
            return np.abs(self.wrong)
        among = self.kernel[np.ix_(self.corrected, self.corrected)] + 0.05 * np.eye(len(self.corrected))
        learned = self.kernel[:, self.corrected] @ np.linalg.solve(among, self.wrong[self.corrected])
        return np.abs(self.wrong - learned)

    def facts(self, tasks: list[int], round_number: int) -> list[TaskFacts]:
        doubts = np.clip(self.errors() + self.noise[round_number], 0, 1)
        return [TaskFacts(task, float(doubts[task]), self.view[task]) for task in tasks]

    def run(self, strategy: TaskStrategy, seed: int) -> float:
        """Mean error of the uncorrected tasks, after using the budget in several rounds."""
        for number in range(ROUNDS):
            left = [task for task in range(TASKS) if task not in self.corrected]
            known = self.facts(self.corrected, number)
            self.corrected += strategy.choose(self.facts(left, number), known, BUDGET // ROUNDS, seed + number)
        left = [task for task in range(TASKS) if task not in self.corrected]
        return float(self.errors()[left].mean())


def test_it_teaches_a_simulated_model_more_than_chance_or_doubt_alone() -> None:
    """With 20 of 160 tasks corrected; the same 40 projects for each strategy."""
    left = {
        name: np.array([SimulatedProject(seed).run(load_task_strategy(name), 1000 * seed) for seed in range(SEEDS)])
        for name in ("doubt-and-difference", "doubt", "random")
    }
    ours, doubt, chance = (left[name] for name in ("doubt-and-difference", "doubt", "random"))
    assert (ours < chance).mean() >= 0.75, "project by project"
    assert ours.mean() < 0.85 * chance.mean()
    assert ours.mean() < doubt.mean()
