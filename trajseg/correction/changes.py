"""A person's change to one frame, and the same change on other frames.

A change consists of what was erased from a prediction and what was added to it. A propagator carries both parts, and
another frame is changed only where it shows the same fault: the erased part is still in its mask, or the added part is
still missing. So a carried mask that slides off the object has no effect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from trajseg.correction.propagator import Drawn, Propagator
from trajseg.tracks.mark import Mark, fit
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import Clip

THICKNESS = 0.06
"""Relative to the square root of the object's area, at least 3 pixels: thinner changes are edge noise."""

THICKNESS_MARKED = 0.15
"""The same if the mask was drawn from a mark, which says where the object is but not where its edge runs."""

STILL_THERE = 0.5
"""Share of the carried erased part that must lie in a mask for it to be the same fault."""

WHOLE_PART = 0.5
"""Share of a connected part of a mask from which the whole part counts as the erased blob, whatever its edge."""

OBJECT_SHARE = 0.1
"""Share of a connected part that may belong to the object if the whole part is to count as a blob."""

SAME_BOX = 0.8
"""IoU of the boxes around prediction and mask from which a mark does not contradict the prediction's outline."""

MOST_CHANGE = 1.5
"""No frame changes (1 - IoU) by more than this multiple of what the person changed."""

ROUNDING = 0.02
"""Additional tolerance (1 - IoU), since masks are whole pixels."""


@dataclass(frozen=True)
class Change:
    """What a person changed on a frame.

    Args:
        before, after: the predicted mask and the current one, bool [H, W].
        marked: whether `after` was drawn from a mark instead of by a person.
    """

    before: np.ndarray
    after: np.ndarray
    marked: bool = False

    @property
    def speaks(self) -> bool:
        """Whether to look for it on other frames: a mark that the prediction fills says nothing about outlines."""
        if not self.marked or not self.after.any():
            return True
        x, y, width, height = cv2.boundingRect(self.after.astype(np.uint8))
        return fit(self.before, Mark(0, (float(x), float(y), float(width), float(height)))) < SAME_BOX

    @property
    def erased(self) -> np.ndarray:
        """bool [H, W]."""
        return self.before & ~self.after

    @property
    def added(self) -> np.ndarray:
        """bool [H, W]."""
        return self.after & ~self.before

    @property
    def size(self) -> float:
        """1 - IoU of before and after: 0 if nothing changed, 1 if nothing was kept."""
        return 1.0 - region_similarity(self.before, self.after)

    @property
    def shared(self) -> float:
        """Share of the smaller mask that both have in common; 0 if one of them is empty."""
        smaller = min(int(self.before.sum()), int(self.after.sum()))
        return int((self.before & self.after).sum()) / smaller if smaller else 0.0


@dataclass(frozen=True)
class CarriedChange:
    """A change as carried to another frame; a part that the change does not have is None."""

    index: int
    kept: Drawn
    erased: Drawn | None
    added: Drawn | None


def carry(
    clip: Clip, key: int, change: Change, carrier: Propagator, frames: Collection[int] | None = None
) -> Iterator[CarriedChange]:
    """The change of frame `key` on the wanted frames, in time order; on every frame of the clip if None.

    Raises:
        VideoError: the video can no longer be read.
    """
    wanted = sorted(range(len(clip)) if frames is None else set(frames))
    passes = [
        list(carrier.propagate(clip, {key: mask}, wanted)) if needed or mask.any() else [None] * len(wanted)
        for mask, needed in ((change.after, True), (change.erased, False), (change.added, False))
    ]
    for index, kept, erased, added in zip(wanted, *passes, strict=True):
        assert kept is not None
        yield CarriedChange(index, kept, erased, added)


def changed_alike(mask: np.ndarray, change: Change, carried: CarriedChange, sure: float) -> np.ndarray:
    """A frame's mask, bool [H, W], with the person's change applied; the same mask if nothing supports that.

    Args:
        mask: as predicted.
        carried: the change on this frame.
        sure: score from which a carried part counts, 0 to 1.
    """
    thickness = THICKNESS_MARKED if change.marked else THICKNESS
    side = max(3, int(thickness * float(np.sqrt(change.after.sum()))) // 2 * 2 + 1)
    out = mask.copy()
    erased, added = carried.erased, carried.added
    if erased is not None and erased.score >= sure and erased.mask.any():
        still = int((erased.mask & mask).sum())
        if still >= STILL_THERE * erased.mask.sum():
            out &= ~_thick(_blobs(mask, erased.mask, carried.kept.mask), side)
    # A mask that was lost altogether is not a missing part.
    if added is not None and added.score >= sure and (mask.any() or not change.before.any()):
        out |= _thick(added.mask & ~mask, side)
    return out if speaks_for(change.size, mask, out) else mask


def speaks_for(size: float, before: np.ndarray, after: np.ndarray) -> bool:
    """Whether a change of this size (1 - IoU) is large enough to justify this change of another frame, bool [H, W]."""
    return 1.0 - region_similarity(before, after) <= MOST_CHANGE * size + ROUNDING


def _blobs(mask: np.ndarray, erased: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """What to remove: erased pixels that are not the object's, and connected parts that are mostly erased."""
    gone = erased & mask & ~kept
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    for number in range(1, count):
        part = labels == number
        area = int(part.sum())
        if (part & erased).sum() > WHOLE_PART * area and (part & kept).sum() <= OBJECT_SHARE * area:
            gone |= part
    return gone


def _thick(mask: np.ndarray, side: int) -> np.ndarray:
    """The mask without parts thinner than `side` pixels; corners of thicker parts are kept."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    core = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel)
    return (cv2.dilate(core, kernel) > 0) & mask
