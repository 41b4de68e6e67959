"""Pictures for a chooser: frames with numbered outlines, and a portrait of each candidate."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from trajseg.tracks.rle import Box

MARGIN = 0.15
"""Margin around a candidate's box in its portrait, as a fraction of the box's longer side."""
GREY = (124, 116, 104)
"""Fill colour where a portrait extends beyond the picture."""
COLOURS = (
    (230, 25, 75),
    (60, 180, 75),
    (0, 130, 200),
    (245, 130, 48),
    (145, 30, 180),
    (70, 240, 240),
    (240, 50, 230),
    (210, 245, 60),
)
"""Colours of outlines, by number. They repeat; the number drawn beside an outline is unique."""


def portrait(frame: np.ndarray, box: Box, side: int) -> np.ndarray:
    """The square around a box (x, y, width, height in pixels) of a frame, RGB uint8 [side, side, 3]."""
    x, y, width, height = box
    reach = max(2.0, max(width, height) * (0.5 + MARGIN))
    middle_x, middle_y = x + width / 2, y + height / 2
    left, top = round(middle_x - reach), round(middle_y - reach)
    right, bottom = max(left + 1, round(middle_x + reach)), max(top + 1, round(middle_y + reach))
    rows, columns = frame.shape[:2]
    inner = frame[max(0, top) : max(0, min(rows, bottom)), max(0, left) : max(0, min(columns, right))]
    square = np.empty((bottom - top, right - left, 3), np.uint8)
    square[:] = GREY
    if inner.size:
        at_y, at_x = max(0, -top), max(0, -left)
        square[at_y : at_y + inner.shape[0], at_x : at_x + inner.shape[1]] = inner
    shrink = square.shape[0] > side
    return cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)


def fitted(frame: np.ndarray, longest: int) -> np.ndarray:
    """The frame with its longer side at most `longest` pixels."""
    scale = longest / max(frame.shape[:2])
    if scale >= 1:
        return frame
    size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def outlined(frame: np.ndarray, masks: Mapping[int, np.ndarray]) -> np.ndarray:
    """A copy of a frame RGB uint8 [H, W, 3] with the outline and the number of each mask, bool [H, W]."""
    drawn = frame.copy()
    thickness = max(1, round(min(frame.shape[:2]) / 240))
    scale = max(0.4, min(frame.shape[:2]) / 720)
    for number, mask in masks.items():
        if not mask.any():
            continue
        colour = COLOURS[(number - 1) % len(COLOURS)]
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outlines, -1, colour, thickness)
        rows, columns = np.nonzero(mask)
        (width, height), below = cv2.getTextSize(str(number), cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
        x = int(np.clip(columns.mean() - width / 2, 1, max(1, frame.shape[1] - width - 1)))
        y = int(np.clip(rows.mean() + height / 2, height + 1, max(height + 1, frame.shape[0] - below - 1)))
        cv2.rectangle(drawn, (x - 1, y - height - 1), (x + width, y + below), (0, 0, 0), -1)
        cv2.putText(
            drawn, str(number), (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), thickness, cv2.LINE_AA
        )
    return drawn
