"""Association: detections match tracked objects by place, shape and motion."""

from __future__ import annotations

import numpy as np

from trajseg.engines.grounded.association import Motion, assigned, likeness, meetings
from trajseg.tracks import rle


def square(x: float, y: float = 10) -> rle.Rle:
    mask = np.zeros((60, 200), bool)
    mask[round(y) : round(y) + 20, round(x) : round(x) + 20] = True
    return rle.encode(mask)


def going(places: dict[int, float], index: int) -> np.ndarray | None:
    motion = Motion()
    for at, x in places.items():
        motion.see(at, square(x))
    return motion.box(index)


def test_each_detection_matches_the_object_that_it_overlaps() -> None:
    table = likeness([square(10), square(100)], [None, None], [square(102), square(11), square(150)])
    assert assigned(table) == {0: 1, 1: 0}


def test_look_alikes_that_have_just_crossed_keep_their_identity() -> None:
    # The tracker has swapped them; their motion tells them apart.
    drawn = [square(84), square(120)]
    ways = [going({0: 80, 3: 100}, 6), going({0: 124, 3: 104}, 6)]
    seen = [square(120), square(84)]
    assert assigned(likeness(drawn, ways, seen, met=[True, True])) == {0: 0, 1: 1}
    assert assigned(likeness(drawn, ways, seen)) == {0: 1, 1: 0}


def test_objects_whose_masks_overlap_have_met() -> None:
    assert meetings([square(10), square(20), None, square(100)]) == {0, 1}


def test_object_lost_by_the_tracker_is_matched_at_its_predicted_place() -> None:
    assert assigned(likeness([None], [going({0: 10, 5: 60}, 10)], [square(110)])) == {0: 0}


def test_a_new_object_is_unmatched() -> None:
    assert assigned(likeness([square(10)], [going({0: 10}, 5)], [square(150)])) == {}


def test_without_objects_or_detections_there_are_no_pairs() -> None:
    assert assigned(likeness([], [], [square(10)])) == {}
    assert assigned(likeness([square(10)], [None], [])) == {}
