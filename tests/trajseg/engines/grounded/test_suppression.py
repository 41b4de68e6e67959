"""Suppression: of several masks of an object in one frame, the best one is kept."""

from __future__ import annotations

import numpy as np

from trajseg.engines.grounded.suppression import box_suppressed, suppressed
from trajseg.tracks import rle


def block(left: int, top: int, right: int, bottom: int) -> rle.Rle:
    mask = np.zeros((60, 80), bool)
    mask[top:bottom, left:right] = True
    return rle.encode(mask)


def test_more_certain_of_two_masks_of_an_object_is_kept() -> None:
    assert suppressed([block(10, 10, 30, 30), block(11, 10, 31, 30)], [0.5, 0.8]) == [1]


def test_neighbours_that_touch_both_stay() -> None:
    assert suppressed([block(10, 10, 30, 30), block(28, 10, 48, 30)], [0.5, 0.8]) == [1, 0]


def test_large_part_of_an_object_is_not_a_second_object() -> None:
    assert suppressed([block(10, 10, 40, 40), block(10, 10, 40, 30)], [0.9, 0.6]) == [0]


def test_small_object_in_front_of_a_large_one_is_kept() -> None:
    assert suppressed([block(10, 10, 50, 50), block(20, 20, 30, 30)], [0.9, 0.6]) == [0, 1]


def test_empty_mask_is_dropped() -> None:
    assert suppressed([block(10, 10, 30, 30), block(0, 0, 0, 0)], [0.4, 0.9]) == [0]


def test_boxes_that_nearly_coincide_count_once() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 11], [5, 0, 15, 10]], float)
    assert box_suppressed(boxes, [0.3, 0.9, 0.5]) == [1, 2]
