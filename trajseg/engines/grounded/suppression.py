"""Non-maximum suppression of masks: of several detections of an object on one frame, the best one is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trajseg.tracks import rle
from trajseg.tracks.rle import Rle


def suppressed(masks: Sequence[Rle], scores: Sequence[float], overlap: float = 0.7, inside: float = 0.9) -> list[int]:
    """The indices of the masks that are kept, best first; empty masks are dropped.

    Args:
        masks: of one frame.
        scores: confidence of each, 0 to 1.
        overlap: a mask is dropped if its IoU with a better one exceeds this.
        inside: a mask is dropped if this share of it lies in a better one and it covers more than half of that one: a
            part of an object is not an object, but a small object in front of a large one is.
    """
    filled = [index for index in range(len(masks)) if rle.area(masks[index])]
    order = sorted(filled, key=lambda index: -scores[index])
    kept: list[int] = []
    for index in order:
        if not any(_same(masks[index], masks[better], overlap, inside) for better in kept):
            kept.append(index)
    return kept


def _same(mask: Rle, better: Rle, overlap: float, inside: float) -> bool:
    area, other = rle.area(mask), rle.area(better)
    shared = rle.iou(mask, better)
    if shared > overlap:
        return True
    # IoU = s / (a + b - s)
    both = shared * (area + other) / (1 + shared)
    return both > inside * area and both > 0.5 * other


def box_suppressed(boxes: np.ndarray, scores: Sequence[float], overlap: float = 0.8) -> list[int]:
    """Like `suppressed`, for boxes float [n, 4], xyxy in pixels, by IoU alone."""
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda place: -scores[place]):
        if all(box_iou(boxes[index], boxes[better]) <= overlap for better in kept):
            kept.append(index)
    return kept


def box_iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two boxes, xyxy; 0 if either is empty."""
    left, top = np.maximum(a[:2], b[:2])
    right, bottom = np.minimum(a[2:], b[2:])
    both = max(0.0, right - left) * max(0.0, bottom - top)
    whole = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return float(both / whole) if whole > 0 else 0.0
