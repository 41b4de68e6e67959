"""Combining: requests that arrive at the same moment share one operation, like a database's group commit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


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
        self._turn = threading.Lock()
        self._waiting: list[tuple[Item, Future[Outcome]]] = []

    def __call__(self, item: Item) -> Outcome:
        """The outcome of one item. Raises what `work` raises for it."""
        future: Future[Outcome] = Future()
        with self._lock:
            self._waiting.append((item, future))
        while not future.done():
            with self._turn:
                if future.done():
                    break
                with self._lock:
                    batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                self._do(batch)
        return future.result()

    def _do(self, batch: Sequence[tuple[Item, Future[Outcome]]]) -> None:
        try:
            outcomes = self._work([item for item, _ in batch])
        except BaseException as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for one in batch:
                self._do([one])
            return
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            future.set_result(outcome)


def asked_once(look: Callable[[Item], Outcome]) -> Combiner[Item, Outcome]:
    """A combiner that merges equal questions (hashable) asked at the same moment."""

    def work(questions: Sequence[Item]) -> list[Outcome]:
        answers = {question: look(question) for question in dict.fromkeys(questions)}
        return [answers[question] for question in questions]

    return Combiner(work)
