"""The extent of an object in a picture."""

from __future__ import annotations

import math

import numpy as np


def area_of(mask: np.ndarray, margin: int = 0) -> tuple[slice, slice]:
    """Rows and columns of the smallest rectangle around a mask, bool [H, W] and not empty, within the picture.

    Args:
        margin: pixels added on each side.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        slice(max(0, int(rows[0]) - margin), min(mask.shape[0], int(rows[-1]) + 1 + margin)),
        slice(max(0, int(columns[0]) - margin), min(mask.shape[1], int(columns[-1]) + 1 + margin)),
    )


def radius_of(mask: np.ndarray) -> float:
    """Radius in pixels of a circle with the area of a mask, bool [H, W]; at least 2."""
    return max(2.0, math.sqrt(np.count_nonzero(mask) / math.pi))
