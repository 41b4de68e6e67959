"""Marks: what a person marks on one frame, a box or a point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trajseg.errors import InputError
from trajseg.tracks.region_similarity import region_similarity
from trajseg.tracks.rle import Box
from trajseg.video import Clip

FITS = 0.5
"""Minimum fit (see `fit`) for a mask to show the marked object."""


@dataclass(frozen=True)
class Mark:
    """What a person marked on one frame.

    Args:
        index: 0-based frame.
        box: x, y, width, height in pixels.
        point: whether it is a click, at the centre of the box.
    """

    index: int
    box: Box
    point: bool = False

    @property
    def middle(self) -> tuple[float, float]:
        """x, y in pixels."""
        x, y, width, height = self.box
        return x + width / 2, y + height / 2

    def pixel(self, width: int, height: int) -> tuple[int, int]:
        """Column and row of the centre pixel, 0-based; InputError if it is outside the picture."""
        x, y = self.middle
        if not (0 <= x < width and 0 <= y < height):
            raise InputError(f"The mark on frame {self.index} is outside the picture.", "Click on the object.")
        return int(x), int(y)

    def inside(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of the box inside the picture, in whole pixels; InputError if that is empty."""
        x, y, across, down = self.box
        left, top = max(0, round(x)), max(0, round(y))
        right, bottom = min(width, round(x + across)), min(height, round(y + down))
        if right - left < 1 or bottom - top < 1:
            raise InputError(f"The mark on frame {self.index} is outside the picture.", "Draw it on the object.")
        return left, top, right, bottom

    def picture(self, clip: Clip) -> np.ndarray:
        """The marked picture, RGB uint8 [H, W, 3]; InputError if the clip lacks the frame, or VideoError."""
        if not 0 <= self.index < len(clip):
            raise InputError(
                f"The mark is on frame {self.index}, but the clip has {len(clip)} frames, counted from 0.",
                "Check that the mark belongs to this clip.",
            )
        _, rgb = next(clip.frames([self.index]))
        return rgb


def fit(mask: np.ndarray, mark: Mark) -> float:
    """How well a mask, bool [H, W], fits a mark: IoU of its bounding box with a box; 1 if it covers a click, else 0."""
    height, width = mask.shape
    if mark.point:
        x, y = mark.pixel(width, height)
        return float(mask[y, x])
    if not mask.any():
        return 0.0
    rows, columns = np.where(mask)
    around, marked = np.zeros_like(mask), np.zeros_like(mask)
    around[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    left, top, right, bottom = mark.inside(width, height)
    marked[top:bottom, left:right] = True
    return region_similarity(around, marked)
