"""What a person changed in one frame, and the same change in the other frames.

A change is what was erased from a prediction and what was added to it. Both parts are carried by a propagator, and a
frame is changed alike only where it shows the same fault: the erased part is still in its mask, or the added part is
still missing. So a mask that slides off the object while it is carried takes nothing with it.
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
"""Of the square root of the object's area, at least 3 pixels: what is thinner is a matter of taste along the edge."""

THICKNESS_MARKED = 0.15
"""The same where the mask was drawn from a mark, which says where the object is and not where its edge runs."""

STILL_THERE = 0.5
"""Share of the carried erased part that must be in a mask for the fault to be the same one."""

WHOLE_PART = 0.5
"""Share of a connected part of a mask from which on all of it is the erased blob, whatever its edge."""

OBJECT_SHARE = 0.1
"""Share of a connected part that may belong to the object and the part still be a blob as a whole."""

SAME_BOX = 0.8
"""IoU of the boxes around prediction and mask from which on a mark says nothing against the prediction's outline."""

MOST_CHANGE = 1.5
"""No frame changes (1 - IoU) by more than this multiple of what the person changed."""

ROUNDING = 0.02
"""1 - IoU that is allowed on top, since masks are whole pixels."""


@dataclass(frozen=True)
class Change:
    """What a person changed in a frame.

    Args:
        before, after: the mask predicted and the one that stands there now, bool [H, W].
        marked: whether `after` was drawn from a mark rather than by a person.
    """

    before: np.ndarray
    after: np.ndarray
    marked: bool = False

    @property
    def speaks(self) -> bool:
        """Whether it may be looked for in other frames: a mark that the prediction fills tells no outline."""
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
        """1 - IoU of before and after: 0 where nothing was changed, 1 where nothing was kept."""
        return 1.0 - region_similarity(self.before, self.after)

    @property
    def shared(self) -> float:
        """Share of the smaller of the two masks that both have; 0 where one of them is empty."""
        smaller = min(int(self.before.sum()), int(self.after.sum()))
        return int((self.before & self.after).sum()) / smaller if smaller else 0.0


@dataclass(frozen=True)
class CarriedChange:
    """A change as it is seen in another frame; a part that the change does not have is None."""

    index: int
    kept: Drawn
    erased: Drawn | None
    added: Drawn | None


def carry(
    clip: Clip, key: int, change: Change, carrier: Propagator, frames: Collection[int] | None = None
) -> Iterator[CarriedChange]:
    """The change of frame `key` in the frames wanted, in time order; in every frame of the clip when None.

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
    """A frame's mask, bool [H, W], changed as the person changed theirs; the same mask where nothing speaks for it.

    Args:
        mask: as predicted.
        carried: the change in this frame.
        sure: score from which on a carried part counts, 0 to 1.
    """
    thickness = THICKNESS_MARKED if change.marked else THICKNESS
    side = max(3, int(thickness * float(np.sqrt(change.after.sum()))) // 2 * 2 + 1)
    out = mask.copy()
    erased, added = carried.erased, carried.added
    if erased is not None and erased.score >= sure and erased.mask.any():
        still = int((erased.mask & mask).sum())
        if still >= STILL_THERE * erased.mask.sum():
            out &= ~_thick(_blobs(mask, erased.mask, carried.kept.mask), side)
    # Where a mask has been lost altogether it is not a part that is missing.
    if added is not None and added.score >= sure and (mask.any() or not change.before.any()):
        out |= _thick(added.mask & ~mask, side)
    return out if speaks_for(change.size, mask, out) else mask


def speaks_for(size: float, before: np.ndarray, after: np.ndarray) -> bool:
    """Whether a change of that size (1 - IoU) is large enough to change another frame, bool [H, W], so much."""
    return 1.0 - region_similarity(before, after) <= MOST_CHANGE * size + ROUNDING


def _blobs(mask: np.ndarray, erased: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """What goes: the erased pixels that are not the object's, and connected parts that are mostly erased."""
    gone = erased & mask & ~kept
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    for number in range(1, count):
        part = labels == number
        area = int(part.sum())
        if (part & erased).sum() > WHOLE_PART * area and (part & kept).sum() <= OBJECT_SHARE * area:
            gone |= part
    return gone


def _thick(mask: np.ndarray, side: int) -> np.ndarray:
    """The mask without what is thinner than `side` pixels; the corners of what is thicker stay."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    core = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel)
    return (cv2.dilate(core, kernel) > 0) & mask
