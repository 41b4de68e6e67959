"""Calls from many threads are combined into few, and each caller gets its own outcome or error."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.service.combining import Combiner


def test_calls_that_come_while_one_is_under_way_are_done_together() -> None:
    batches: list[list[int]] = []
    entered, go_on = threading.Event(), threading.Event()

    def double(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        if len(batches) == 1:
            entered.set()
            assert go_on.wait(10)
        return [2 * item for item in items]

    combiner = Combiner(double)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(combiner, 0)
        assert entered.wait(10)
        others = [pool.submit(combiner, item) for item in range(1, 9)]
        while len(combiner._waiting) < 8:
            pass
        go_on.set()
        assert first.result(10) == 0
        assert [future.result(10) for future in others] == [2 * item for item in range(1, 9)]
    assert [len(batch) for batch in batches] == [1, 8]


def test_one_items_error_reaches_only_its_own_caller() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def invert(items: Sequence[int]) -> list[float]:
        if items == [100]:
            entered.set()
            assert go_on.wait(10)
        return [1 / item for item in items]

    combiner = Combiner(invert)
    with ThreadPoolExecutor(5) as pool:
        pool.submit(combiner, 100)
        assert entered.wait(10)
        futures = {item: pool.submit(combiner, item) for item in (4, 0, 2)}
        while len(combiner._waiting) < 3:
            pass
        go_on.set()
        assert futures[4].result(10) == 0.25
        assert futures[2].result(10) == 0.5
        with pytest.raises(ZeroDivisionError):
            futures[0].result(10)


def test_no_more_than_so_many_are_done_in_one_go() -> None:
    sizes: list[int] = []
    start = threading.Barrier(8)

    def note(items: Sequence[int]) -> Sequence[int]:
        sizes.append(len(items))
        return items

    combiner = Combiner(note, most=3)

    def call(item: int) -> int:
        start.wait(10)
        return combiner(item)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(call, range(8))) == list(range(8))
    assert max(sizes) <= 3


def test_a_caller_with_an_outcome_does_not_wait_for_the_next_batch() -> None:
    """It used to wait for the current batch to end before it looked for its outcome, sometimes several times."""
    entered = [threading.Event() for _ in range(3)]
    go_on = [threading.Event() for _ in range(3)]
    batches: list[Sequence[int]] = []

    def work(items: Sequence[int]) -> Sequence[int]:
        number = len(batches)
        batches.append(items)
        entered[number].set()
        assert go_on[number].wait(10)
        return items

    combiner = Combiner(work, most=4)
    with ThreadPoolExecutor(9) as pool:
        futures = [pool.submit(combiner, 0)]
        assert entered[0].wait(10)
        for item in range(1, 9):
            futures.append(pool.submit(combiner, item))
            while len(combiner._waiting) < item:
                pass
        go_on[0].set()
        assert entered[1].wait(10)
        assert futures[0].result(10) == 0
        go_on[1].set()
        assert entered[2].wait(10)
        # The third batch is running and does not end; the second one's callers have their outcomes.
        assert [future.result(10) for future in futures[1:5]] == [1, 2, 3, 4]
        go_on[2].set()
        assert [future.result(10) for future in futures[5:]] == [5, 6, 7, 8]
    assert batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8]]


def test_work_that_forgets_an_item_fails_for_its_caller_and_blocks_nobody_else() -> None:
    combined: Combiner[int, int] = Combiner(lambda items: [item for item in items if item != 3])
    with pytest.raises(ValueError, match="zip"):
        combined(3)
    assert combined(4) == 4
