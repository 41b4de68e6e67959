"""Blobs: removes small stray pieces of a mask, and fills small holes."""

from __future__ import annotations

import cv2
import numpy as np


def without_blobs(mask: np.ndarray, least: float = 0.15, near: float = 0.25) -> np.ndarray:
    """The mask, bool [H, W], without stray blobs, and with tiny holes filled.

    An object can be in several pieces when something occludes it. So a piece is kept if it is large (at least `least`
    of the largest one) or close to it (within `near` of the largest one's longer side).
    """
    if not mask.any():
        return mask.copy()
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = mask.copy()
    if count > 2:
        main = 1 + int(areas.argmax())
        reach = near * max(stats[main, cv2.CC_STAT_WIDTH], stats[main, cv2.CC_STAT_HEIGHT])
        for label in range(1, count):
            if label != main and areas[label - 1] < least * areas[main - 1] and _gap(stats, label, main) > reach:
                kept[labels == label] = False
    return _without_pinholes(kept)


def _without_pinholes(mask: np.ndarray, share: float = 0.01) -> np.ndarray:
    """Fills holes smaller than a fraction of the mask: a ring keeps its hole."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    most = share * np.count_nonzero(mask)
    height, width = mask.shape
    filled = mask.copy()
    for label in range(1, count):
        x, y, across, down, area = stats[label]
        at_edge = x == 0 or y == 0 or x + across == width or y + down == height
        if area <= most and not at_edge:
            filled[labels == label] = True
    return filled


def _gap(stats: np.ndarray, a: int, b: int) -> float:
    """Pixels between the bounding boxes of two components; 0 if they overlap."""
    ax, ay, aw, ah = stats[a, :4]
    bx, by, bw, bh = stats[b, :4]
    across = max(bx - (ax + aw), ax - (bx + bw), 0)
    down = max(by - (ay + ah), ay - (by + bh), 0)
    return float(np.hypot(across, down))
