"""Association: matches the objects detected on a frame with those already tracked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment

from trajseg.engines.grounded.suppression import box_iou
from trajseg.tracks import rle
from trajseg.tracks.rle import Rle

LEAST = 0.3
"""Smallest similarity at which a detection may be matched to a tracked object."""
MOTION, MET = 0.5, 2.0
"""Weight of the predicted motion relative to mask overlap (1): for an object on its own, and for one that has just met
another, since trackers confuse look-alikes that cross paths."""
TOUCHING = 0.1
"""Objects have met if the IoU of their boxes is at least this."""


class Motion:
    """Motion of one object: extrapolates its box linearly from the last two detections of it on its own.

    The tracker's masks in between are ignored: after a swap they would follow the other object.
    """

    def __init__(self) -> None:
        self._places: list[tuple[int, np.ndarray]] = []

    def see(self, index: int, mask: Rle | None) -> None:
        """Records the detected mask of the object on frame `index`."""
        box = None if mask is None else rle.box(mask)
        if box is not None:
            self._places = [*self._places[-1:], (index, corners(box))]

    def box(self, index: int) -> np.ndarray | None:
        """Its predicted box on frame `index`, xyxy; None if it was never detected."""
        if not self._places:
            return None
        last_index, last = self._places[-1]
        if len(self._places) < 2:
            return last
        first_index, first = self._places[0]
        step = (middle(last) - middle(first)) / max(1, abs(last_index - first_index))
        return last + np.tile(step * min(abs(index - last_index), 3 * abs(last_index - first_index)), 2)


def corners(box: tuple[float, float, float, float]) -> np.ndarray:
    """x, y, width, height -> x, y, x, y."""
    x, y, width, height = box
    return np.array([x, y, x + width, y + height], np.float64)


def middle(box: np.ndarray) -> np.ndarray:
    """Centre of a box xyxy."""
    return (box[:2] + box[2:]) / 2


def likeness(
    followed: Sequence[Rle | None],
    going: Sequence[np.ndarray | None],
    sightings: Sequence[Rle],
    met: Sequence[bool] = (),
) -> np.ndarray:
    """How well each detection fits each tracked object: float [tracked, detections], 0 or more.

    Args:
        followed: the tracker's masks on this frame; None where it considers the object absent.
        going: boxes xyxy predicted from their motion.
        sightings: masks of the detections on this frame.
        met: whether each tracked object has met another since it was last detected; by default none has.
    """
    table = np.zeros((len(followed), len(sightings)))
    boxes = [rle.box(mask) for mask in sightings]
    for row, (mask, box) in enumerate(zip(followed, going, strict=True)):
        for column, (sighting, seen) in enumerate(zip(sightings, boxes, strict=True)):
            shared = rle.iou(mask, sighting) if mask is not None else 0.0
            led = box_iou(box, corners(seen)) if box is not None and seen is not None else 0.0
            table[row, column] = shared + (MET if met and met[row] else MOTION) * led
    return table


def assigned(table: np.ndarray, least: float = LEAST) -> dict[int, int]:
    """Pairs (row, column), each used once, that maximise the total similarity; none below `least`."""
    rows, columns = linear_sum_assignment(table, maximize=True)
    return {int(row): int(column) for row, column in zip(rows, columns, strict=True) if table[row, column] >= least}


def meetings(masks: Sequence[Rle | None]) -> set[int]:
    """Indices of masks so close to another one that a tracker may confuse their objects."""
    boxes = {index: corners(box) for index, mask in enumerate(masks) if mask is not None and (box := rle.box(mask))}
    return {
        index
        for one, other in combinations(boxes, 2)
        if box_iou(boxes[one], boxes[other]) >= TOUCHING
        for index in (one, other)
    }
