"""The turn of a run: how long it works before it yields to a waiting job with higher priority."""

from __future__ import annotations

import time

from backend.store import Job, Store

LOOK_SECONDS = 0.25
"""How often a run checks whether a job is waiting."""


class Turn:
    """One run's turn. It starts with the run, and lasts at least twice as long as the run took to get going.

    So a job that is preempted repeatedly spends at least half of its time on new frames, and finishes however many
    other jobs arrive. A run whose remaining work is shorter than its start-up is not preempted.

    Args:
        job: as it was when the run started.
        stale_after_seconds: see Preemption.due.
    """

    def __init__(self, store: Store, job: Job, stale_after_seconds: float) -> None:
        self._store, self._job, self._stale_after = store, job, stale_after_seconds
        self._began = time.monotonic()
        self._going: float | None = None
        self._steps = 0
        self._looked = 0.0

    def is_over(self, done: int = 0, total: int = 0) -> bool:
        """Whether the run should yield now. Call it after each step.

        Args:
            done: finished steps, including those of earlier runs.
            total: steps in total; 0: yield at once, however short the turn was.
        """
        return (not total or self._is_long_enough(done, total)) and self._is_anybody_waiting()

    def _is_long_enough(self, done: int, total: int) -> bool:
        moment = time.monotonic()
        if self._going is None:
            self._going, self._steps = moment, done
            return False
        start, worked = self._going - self._began, moment - self._going
        rest = worked / max(done - self._steps, 1) * (total - done)
        return worked >= start and rest > start

    def _is_anybody_waiting(self) -> bool:
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return False
        self._looked = time.monotonic()
        return self._store.preemption.due(self._job, self._stale_after)
