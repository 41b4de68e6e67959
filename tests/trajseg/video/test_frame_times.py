"""Frame times from timestamps: a wrong timestamp shifts no other frame, and jumps of the clock are closed."""

from __future__ import annotations

from itertools import pairwise

import pytest

from trajseg.video.frame_times import repaired

STEP = 0.04


def evenly(count: int, start: float = 0.0) -> list[float | None]:
    return [start + index * STEP for index in range(count)]


def expected(count: int) -> list[float]:
    return [index * STEP for index in range(count)]


@pytest.mark.parametrize(
    "wrong",
    [
        {10: 0.9},
        {10: 0.1},
        {10: 0.0},
        {10: 9 * STEP},
        {10: 0.9, 11: 0.94},
        {10: 0.1, 11: 0.14, 12: 0.18},
        {10: None},
        {4: 1.0, 20: 0.2},
        {39: 0.3},
        {1: 0.0},
        {10: 9 * STEP, 11: 9 * STEP, 12: 9 * STEP},
        {10: 11 * STEP, 11: 10 * STEP},
        {0: 0.5},
        {0: 0.9, 1: 0.9, 2: 0.9},
        {37: 0.66, 38: 0.66, 39: 0.66},
        {index: (index + (1 if index % 2 == 0 else -1)) * STEP for index in range(10, 20)},
        dict.fromkeys(range(1, 40), 0.0),
    ],
)
def test_wrong_times_shift_no_other_frame(wrong: dict[int, float | None]) -> None:
    stamps = evenly(40)
    for index, stamp in wrong.items():
        stamps[index] = stamp
    taken = repaired(stamps, STEP, close_jumps=True)
    assert list(taken.times) == pytest.approx(expected(40))
    assert (taken.restarts, taken.jumps) == (0, 0)
    assert 1 <= taken.replaced <= len(wrong)


@pytest.mark.parametrize("hour", [3600.0, -3600.0])
def test_one_time_that_is_off_by_an_hour_is_no_jump(hour: float) -> None:
    stamps = evenly(40, start=5000.0)
    stamps[10] = 5000.0 + 10 * STEP + hour
    taken = repaired(stamps, STEP, close_jumps=True)
    assert [time - 5000 for time in taken.times] == pytest.approx(expected(40))


@pytest.mark.parametrize("start", [3600.0, 0.0, 0.3])
def test_joined_recordings_continue_evenly(start: float) -> None:
    taken = repaired([*evenly(20), *evenly(20, start)], STEP, close_jumps=True)
    assert list(taken.times) == pytest.approx(expected(40))
    assert taken.replaced == 0
    assert taken.restarts + taken.jumps == 1


@pytest.mark.parametrize("early", [-0.6, -0.3, -5.0])
@pytest.mark.parametrize("count", [5, 6, 12])
def test_a_clock_that_comes_back_leaves_no_gap(early: float, count: int) -> None:
    stamps: list[float | None] = [5 + time for time in expected(40)]
    stamps[20 : 20 + count] = [5 + index * STEP + early for index in range(20, 20 + count)]
    times = repaired(stamps, STEP, close_jumps=False).times
    assert [time - 5 for time in times] == pytest.approx(expected(40))


@pytest.mark.parametrize("distance", [2, 3])
def test_frames_in_the_order_of_decoding_get_their_times_in_order(distance: int) -> None:
    """B-frames in a file without presentation times."""
    stamps: list[float | None] = evenly(40)
    for index in range(0, 39 - distance, distance + 1):
        stamps[index : index + distance + 1] = stamps[index : index + distance + 1][::-1]
    assert list(repaired(stamps, STEP, close_jumps=False).times) == pytest.approx(expected(40))


def test_a_varying_rate_after_a_restart_is_kept() -> None:
    second = [0.0, 0.1, 0.15, 0.2, 0.35, 0.4, 0.5]
    taken = repaired([*evenly(10), *second], STEP, close_jumps=False)
    assert list(taken.times[10:]) == pytest.approx([0.4 + time for time in second])


def test_a_jump_that_a_browser_shows_is_kept() -> None:
    stamps = [*evenly(10), *evenly(10, 3600.0)]
    taken = repaired(stamps, STEP, close_jumps=False)
    assert list(taken.times) == pytest.approx(stamps)


def test_long_pauses_of_a_slow_clip_are_no_jumps() -> None:
    stamps: list[float | None] = [20.0 * index for index in range(10)]
    assert list(repaired(stamps, STEP, close_jumps=True).times) == stamps


def test_frames_without_any_time_are_even() -> None:
    assert list(repaired([None] * 5, STEP, close_jumps=True).times) == pytest.approx(expected(5))


@pytest.mark.parametrize("stamps", [[0.5, 0.0, 0.04, 0.08], [0.0, 0.0, 0.0], [0.2, 0.1], [None, 0.0, 0.04]])
def test_times_always_increase_from_0(stamps: list[float | None]) -> None:
    times = repaired(stamps, STEP, close_jumps=True).times
    assert len(times) == len(stamps)
    assert times[0] >= 0
    assert all(after > before for before, after in pairwise(times))
