"""GrabCut: turns a box or point on one frame into a mask by colour alone, for when no model can.

`cut_out` is GrabCut (Rother, Kolmogorov and Blake, 2004) within a box. It knows no objects, only which colours are
inside the box but not around it. That is often enough for a first mask, and needs no training.
"""

from __future__ import annotations

import cv2
import numpy as np

from trajseg.tracks.mark import Mark
from trajseg.video import Clip

GRABCUT_ROUNDS = 5
SURROUNDINGS = 0.6
"""How far around a box GrabCut looks, as a fraction of the box's side: this margin is certainly background."""
LONGEST_SIDE = 480
"""Pixels; larger cut-outs are reduced to this size, and the mask is enlarged."""
FEWEST_PIXELS = 12
POINT_SURE, POINT_GUESS, POINT_REACH = 0.02, 0.1, 0.35
"""Radii around a click, as fractions of the picture's shorter side: the object, probably the object, possibly."""


def cut_out(clip: Clip, mark: Mark) -> np.ndarray:
    """The mask of the object at a mark, bool [H, W], by colour alone.

    If a box's inside looks like its surroundings, the mask is an ellipse in it: something to correct is better than
    nothing.

    Raises:
        InputError: the mark lies outside the picture, or the clip has no such frame.
        VideoError: the video can no longer be read.
    """
    rgb = mark.picture(clip)
    if mark.point:
        return _around_point(rgb, mark)
    left, top, right, bottom = mark.inside(clip.width, clip.height)
    mask = np.zeros((clip.height, clip.width), bool)
    mask[top:bottom, left:right] = _within(rgb, (left, top, right, bottom))
    return mask


def _within(rgb: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """GrabCut's foreground inside a box, bool [box height, box width]."""
    left, top, right, bottom = box
    across, down = right - left, bottom - top
    margin_x, margin_y = int(across * SURROUNDINGS) + 2, int(down * SURROUNDINGS) + 2
    x0, y0 = max(0, left - margin_x), max(0, top - margin_y)
    x1, y1 = min(rgb.shape[1], right + margin_x), min(rgb.shape[0], bottom + margin_y)
    scale = min(1.0, LONGEST_SIDE / max(x1 - x0, y1 - y0))
    size = max(2, round((x1 - x0) * scale)), max(2, round((y1 - y0) * scale))
    patch = cv2.resize(np.ascontiguousarray(rgb[y0:y1, x0:x1]), size, interpolation=cv2.INTER_AREA)
    labels = np.full(patch.shape[:2], cv2.GC_BGD, np.uint8)
    rows = slice(round((top - y0) * scale), max(round((bottom - y0) * scale), 1))
    columns = slice(round((left - x0) * scale), max(round((right - x0) * scale), 1))
    labels[rows, columns] = cv2.GC_PR_FGD
    found = np.zeros(labels.shape, np.uint8)
    if (labels == cv2.GC_BGD).any() and (labels == cv2.GC_PR_FGD).sum() >= FEWEST_PIXELS:
        found = _grab_cut(patch, labels)
    whole = cv2.resize(
        found, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR_EXACT if scale < 1 else cv2.INTER_NEAREST
    )
    inside: np.ndarray = whole[top - y0 : bottom - y0, left - x0 : right - x0] > 0
    if inside.sum() < FEWEST_PIXELS:
        y, x = np.mgrid[:down, :across]
        inside = ((x + 0.5) / across * 2 - 1) ** 2 + ((y + 0.5) / down * 2 - 1) ** 2 <= 1
    return inside


def _around_point(rgb: np.ndarray, mark: Mark) -> np.ndarray:
    """GrabCut's foreground around a click, as far as it is connected to it, bool [H, W]."""
    height, width = rgb.shape[:2]
    x, y = mark.pixel(width, height)
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    size = max(2, round(width * scale)), max(2, round(height * scale))
    small = cv2.resize(np.ascontiguousarray(rgb), size, interpolation=cv2.INTER_AREA)
    rows, columns = np.mgrid[: size[1], : size[0]]
    away = np.hypot(columns - x * scale, rows - y * scale) / min(size)
    labels = np.full(away.shape, cv2.GC_BGD, np.uint8)
    for reach, kind in ((POINT_REACH, cv2.GC_PR_BGD), (POINT_GUESS, cv2.GC_PR_FGD), (POINT_SURE, cv2.GC_FGD)):
        labels[away < reach] = kind
    found = _grab_cut(small, labels)
    _, parts = cv2.connectedComponents(found)
    clicked = parts[min(int(y * scale), size[1] - 1), min(int(x * scale), size[0] - 1)]
    hit = (parts == clicked) & (found > 0)
    mask: np.ndarray = cv2.resize(hit.astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR_EXACT) > 0
    return mask


def _grab_cut(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Foreground, uint8 [H, W] of 0 and 1; `labels` are OpenCV's initial labels."""
    models = np.zeros((2, 1, 65), np.float64)
    # GrabCut initialises its mixtures from OpenCV's generator: the same mark must give the same mask.
    cv2.setRNGSeed(0)
    cv2.grabCut(picture, labels, None, models[0], models[1], GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
