"""Combining: requests that arrive at the same moment share one operation, like a database's group commit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class _Call(Generic[Item, Outcome]):
    """One waiting call. `woken` is set when `future` is done, or when it is this call's turn to do a batch."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.future: Future[Outcome] = Future()
        self.woken = threading.Event()


class Combiner(Generic[Item, Outcome]):
    """Turns calls for single items into calls for batches of waiting items. Safe to share between threads.

    While `work` runs, further items are collected; the next call handles all of them. A single call runs at once. Work
    on an item always starts after its call, so no caller gets an answer older than its question.

    Args:
        work: takes a list of items and returns an outcome for each, in order. If it raises for several items, each is
            retried alone, so that an item's error reaches only its own caller.
        most: largest batch.
    """

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Outcome]], most: int = 100) -> None:
        self._work = work
        self._most = most
        self._lock = threading.Lock()
        self._waiting: list[_Call[Item, Outcome]] = []
        self._busy = False
        """Whether a thread does a batch, or has been woken to do the next one."""

    def __call__(self, item: Item) -> Outcome:
        """The outcome of one item. Raises what `work` raises for it."""
        call: _Call[Item, Outcome] = _Call(item)
        with self._lock:
            self._waiting.append(call)
            waits, self._busy = self._busy, True
        if waits:
            call.woken.wait()
        if not call.future.done():
            self._next_batch()
        return call.future.result()

    def _next_batch(self) -> None:
        """Does the waiting calls, and then wakes the first of those that came meanwhile to do the next batch.

        A caller does the one batch that its own item is in: none works for the others any longer.
        """
        with self._lock:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        self._do(batch)
        with self._lock:
            self._busy = bool(self._waiting)
            if self._waiting:
                self._waiting[0].woken.set()

    def _do(self, batch: Sequence[_Call[Item, Outcome]]) -> None:
        try:
            outcomes = list(zip(batch, self._work([call.item for call in batch]), strict=True))
        except BaseException as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                batch[0].woken.set()
                return
            for call in batch:
                self._do([call])
            return
        for call, outcome in outcomes:
            call.future.set_result(outcome)
            call.woken.set()


def asked_once(look: Callable[[Item], Outcome]) -> Combiner[Item, Outcome]:
    """A combiner that merges equal questions (hashable) asked at the same moment."""

    def work(questions: Sequence[Item]) -> list[Outcome]:
        answers = {question: look(question) for question in dict.fromkeys(questions)}
        return [answers[question] for question in questions]

    return Combiner(work)
