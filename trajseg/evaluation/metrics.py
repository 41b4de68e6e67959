"""Scores of mask tracks against ground truth: J, F, J&F, IoU of consecutive frames, and matching of tracks.

J and F follow davis2017-evaluation, which MeViS and ReVOS also use. Masks are bool [H, W]; sequences [N, H, W].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from trajseg.tracks.region_similarity import region_similarity

BOUNDARY_TOLERANCE = 0.008
"""Largest distance of two matching boundaries, as a fraction of the picture's diagonal."""


def boundary(mask: np.ndarray) -> np.ndarray:
    """One-pixel boundary map bool [H, W]: pixels that differ from their right, lower or lower-right neighbour.

    The picture's edge is not a boundary: a mask that fills the frame has none.
    """
    m = np.asarray(mask, bool)
    edge = np.zeros_like(m)
    right, below = m[:, :-1] != m[:, 1:], m[:-1] != m[1:]
    edge[:-1, :-1] = right[:-1] | below[:, :-1] | (m[:-1, :-1] != m[1:, 1:])
    edge[-1, :-1], edge[:-1, -1] = right[-1], below[:, -1]
    return edge


def boundary_measure(prediction: np.ndarray, truth: np.ndarray) -> float:
    """F of one frame: harmonic mean of the fractions of each boundary that are near the other one.

    Near means within ceil(0.008 * diagonal) pixels. Two masks without a boundary score 1, one without scores 0.
    """
    height, width = truth.shape
    radius = math.ceil(BOUNDARY_TOLERANCE * math.hypot(height, width))
    edge_p, edge_t = boundary(prediction), boundary(truth)
    count_p, count_t = int(np.count_nonzero(edge_p)), int(np.count_nonzero(edge_t))
    if not count_p or not count_t:
        return 1.0 if count_p == count_t else 0.0
    precision = np.count_nonzero(edge_p & _widened(edge_t, radius)) / count_p
    recall = np.count_nonzero(edge_t & _widened(edge_p, radius)) / count_t
    total = precision + recall
    return float(2 * precision * recall / total) if total else 0.0


def _widened(edge: np.ndarray, radius: int) -> np.ndarray:
    """Dilated by the disk dx^2 + dy^2 <= radius^2."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    return cv2.dilate(edge.astype(np.uint8), disk, borderType=cv2.BORDER_CONSTANT, borderValue=0).astype(bool)


@dataclass(frozen=True)
class Score:
    """Means over all frames of one track or union: J and F, 0..1."""

    j: float
    f: float

    @property
    def jf(self) -> float:
        return (self.j + self.f) / 2


def score(prediction: np.ndarray | None, truth: np.ndarray) -> Score:
    """J and F of a sequence bool [N, H, W]; a prediction of None is empty on every frame."""
    if prediction is None:
        prediction = np.zeros_like(truth)
    if prediction.shape != truth.shape:
        raise ValueError(f"The prediction has the shape {prediction.shape}, the ground truth {truth.shape}.")
    pairs = list(zip(prediction, truth, strict=True))
    return Score(
        j=float(np.mean([region_similarity(p, t) for p, t in pairs])),
        f=float(np.mean([boundary_measure(p, t) for p, t in pairs])),
    )


@dataclass(frozen=True)
class Steadiness:
    """How similar the masks of consecutive frames are.

    `mean` counts a pair of empty masks as 1; `mean_present` leaves such pairs out (1 if there are no other pairs);
    `empty_share` is the share of such pairs. A mask that is always empty or never changes has 1, so read it together
    with J&F and with the steadiness of the ground truth.
    """

    mean: float
    mean_present: float
    empty_share: float


def steadiness(masks: np.ndarray) -> Steadiness:
    """Average IoU between consecutive frames of bool [N, H, W], N >= 1; a single frame has 1."""
    pairs = list(pairwise(masks))
    if not pairs:
        return Steadiness(1.0, 1.0, 0.0)
    values = np.array([region_similarity(a, b) for a, b in pairs])
    empty = np.array([not (a.any() or b.any()) for a, b in pairs])
    present = values[~empty]
    return Steadiness(
        mean=float(values.mean()),
        mean_present=float(present.mean()) if len(present) else 1.0,
        empty_share=float(empty.mean()),
    )


def mean(values: Iterable[float | bool | None]) -> float | None:
    """The mean of the values that are not None; None if there are none."""
    known = [float(value) for value in values if value is not None]
    return fmean(known) if known else None


@dataclass(frozen=True)
class Presence:
    """Whether a mask is present when its object is.

    `ghosts` is the share of the frames without the object that nevertheless have a mask, `missed` the share of the
    frames with it that have none; None if there are no such frames.
    """

    ghosts: float | None
    missed: float | None


def presence(prediction: np.ndarray, truth: np.ndarray) -> Presence:
    """The presence of masks bool [N, H, W] relative to their ground truth."""
    drawn, there = (np.any(masks, axis=(1, 2)) for masks in (prediction, truth))
    ghosts, missed = drawn[~there], ~drawn[there]
    return Presence(float(ghosts.mean()) if len(ghosts) else None, float(missed.mean()) if len(missed) else None)


def match(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> list[int | None]:
    """For each ground truth bool [N, H, W] the index of its prediction, or None, by largest summed J&F.

    Every prediction is assigned to at most one target. A target without a prediction is scored against empty masks.
    """
    if not truths:
        return []
    worth = np.zeros((len(truths), len(predictions)))
    for i, truth in enumerate(truths):
        for j, prediction in enumerate(predictions):
            worth[i, j] = score(prediction, truth).jf
    paired: list[int | None] = [None] * len(truths)
    for truth_index, prediction_index in zip(*linear_sum_assignment(worth, maximize=True), strict=True):
        paired[truth_index] = int(prediction_index)
    return paired
