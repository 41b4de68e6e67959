"""Draws a frame's number in the corner of its picture."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from trajseg.pictures.drawing import BACKGROUND, TEXT, font_for

LEAST_HEIGHT = 240
"""Minimum rows of a picture; on a smaller one the number would hide too much."""

SHARE = 1 / 30
"""Height of the digits as a fraction of the picture's."""

LEAST_SIZE = 12
"""Minimum height of the digits in pixels; smaller ones are hard to read after Label Studio enlarges them."""

OPACITY = 0.65
"""Opacity of the tag; what is behind it stays visible."""


def numbered(rgb: np.ndarray, number: int) -> np.ndarray:
    """A picture uint8 [H, W, 3] with "frame N" in its lower left corner; unchanged if it is too small."""
    height, width = rgb.shape[:2]
    if height < LEAST_HEIGHT:
        return rgb
    text = f"frame {number}"
    font = font_for(max(LEAST_SIZE, round(height * SHARE)))
    left, top, right, bottom = font.getbbox(text)
    across, down = min(round(right - left) + 6, width), round(bottom - top) + 6
    tag = Image.new("RGB", (across, down), BACKGROUND)
    ImageDraw.Draw(tag).text((3 - left, 3 - top), text, font=font, fill=TEXT)
    out = rgb.copy()
    corner = out[height - down :, :across]
    corner[:] = np.round(corner * (1 - OPACITY) + np.asarray(tag) * OPACITY).astype(np.uint8)
    return out
