"""How long a run works before it yields."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from worker import turn
from worker.turn import Turn


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    kept = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(turn, "time", SimpleNamespace(monotonic=lambda: kept.seconds))
    return kept


def with_somebody_waiting() -> Any:
    """A substitute for a store in which an interactive job always waits."""
    return SimpleNamespace(preemption=SimpleNamespace(due=lambda job, stale: True))


def test_a_run_works_for_as_long_as_it_took_to_get_going(clock: SimpleNamespace) -> None:
    run = Turn(with_somebody_waiting(), SimpleNamespace(), 15.0)  # type: ignore[arg-type]
    clock.seconds += 4.0
    assert not run.is_over(400, 1000)
    ends = []
    for done in range(401, 500):
        clock.seconds += 0.5
        ends.append((done, run.is_over(done, 1000)))
    assert next(done for done, over in ends if over) == 408


def test_a_run_that_is_nearly_done_ends_first(clock: SimpleNamespace) -> None:
    run = Turn(with_somebody_waiting(), SimpleNamespace(), 15.0)  # type: ignore[arg-type]
    clock.seconds += 4.0
    assert not run.is_over(980, 1000)
    for done in range(981, 1000):
        clock.seconds += 0.5
        # At least 4 s of work are left until frame 992.
        assert run.is_over(done, 1000) == (988 <= done < 992)


def test_a_run_that_counts_nothing_yields_at_once(clock: SimpleNamespace) -> None:
    assert Turn(with_somebody_waiting(), SimpleNamespace(), 15.0).is_over()  # type: ignore[arg-type]


def test_the_store_is_not_asked_at_every_frame(clock: SimpleNamespace) -> None:
    asked: list[float] = []

    def due(job: object, stale: object) -> bool:
        asked.append(clock.seconds)
        return False

    store = SimpleNamespace(preemption=SimpleNamespace(due=due))
    run = Turn(store, SimpleNamespace(), 15.0)  # type: ignore[arg-type]
    for done in range(1000):
        clock.seconds += 0.01
        run.is_over(done, 1_000_000)
    assert 30 <= len(asked) <= 41
