"""Identity of tracks: duplicates, look-alikes that cross, objects that enter late."""

from __future__ import annotations

import numpy as np

from trajseg.engines.grounded.candidates import Candidate, CandidateFrame
from trajseg.engines.grounded.identity import merged
from trajseg.tracks import rle

FRAMES = 12


def square(x: float) -> rle.Rle:
    mask = np.zeros((40, 200), bool)
    mask[10:30, round(x) : round(x) + 20] = True
    return rle.encode(mask)


def track(places: list[float | None], score: float = 0.8, seen: tuple[int, ...] = (0,)) -> Candidate:
    frames = [
        CandidateFrame() if x is None else CandidateFrame(square(x), score, 3.0, index in seen)
        for index, x in enumerate(places)
    ]
    start = next(index for index, x in enumerate(places) if x is not None)
    return Candidate("square", score, start, frames, len(seen))


def places_of(candidate: Candidate) -> list[float | None]:
    return [None if (box := candidate.box(index)) is None else box[0] for index in range(FRAMES)]


def test_two_tracks_of_one_object_become_one() -> None:
    way: list[float | None] = [10.0 * step for step in range(FRAMES)]
    [one] = merged([track(way), track([None if x is None else x + 1 for x in way], 0.6)])
    assert places_of(one) == way


def test_late_track_fills_the_other_s_gaps() -> None:
    way: list[float | None] = [10.0 * step for step in range(FRAMES)]
    early = track([*way[:8], None, None, None, None])
    late = track([None, None, *way[2:]], 0.7, seen=(8,))
    [one] = merged([early, late])
    assert places_of(one) == way


def test_look_alikes_that_cross_remain_two_tracks() -> None:
    right: list[float | None] = [10.0 * step for step in range(FRAMES)]
    left: list[float | None] = [110.0 - 10 * step for step in range(FRAMES)]
    assert [places_of(one) for one in merged([track(right), track(left, 0.7)])] == [right, left]


def test_track_that_switched_to_a_look_alike_loses_those_frames() -> None:
    right: list[float | None] = [10.0 * step for step in range(FRAMES)]
    left: list[float | None] = [110.0 - 10 * step for step in range(FRAMES)]
    swapped = track([*left[:8], *right[8:]], 0.6)
    kept, cut = merged([track(right, 0.9, seen=(0, 6, 11)), swapped])
    assert places_of(kept) == right
    assert places_of(cut) == [*left[:8], None, None, None, None]


def test_empty_track_is_dropped() -> None:
    assert merged([Candidate("square", 0.9, 0, [CandidateFrame() for _ in range(FRAMES)])]) == []
