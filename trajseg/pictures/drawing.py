"""Drawing: masks, name tags and text over pictures, anti-aliased at any size."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trajseg.palette import rgb

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int]
Area = tuple[int, int, int, int]
"""left, top, right, bottom in pixels; right and bottom are outside."""

BACKGROUND: Colour = (20, 23, 28)
TEXT: Colour = (244, 246, 248)
FAINT: Colour = (150, 158, 168)

FILL_SHARE = 0.42
"""Opacity of a track's colour inside its mask."""

WIDE_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSans-Regular.ttf",
    "DejaVuSans.ttf",
    "Arial Unicode.ttf",
    "arial.ttf",
)
"""Fonts to try for text that Pillow's built-in Latin font cannot write."""


@lru_cache(maxsize=64)
def font_for(size: int, latin: bool = True) -> Font:
    """A font of `size` pixels."""
    if not latin:
        for name in WIDE_FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def fitted_font(text: str, size: int) -> Font:
    """A font of `size` pixels with the letters of `text`, if the machine has one."""
    return font_for(size, all(ord(letter) < 0x180 for letter in text))


def shortened(text: str, font: Font, width: float) -> str:
    """`text`, truncated with three dots if it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    kept = bisect_right(range(len(text)), width, key=lambda length: font.getlength(text[:length] + "..."))
    return text[: max(0, kept - 1)].rstrip() + "..."


def wrapped(text: str, font: Font, width: float, lines: int) -> list[str]:
    """`text` in at most `lines` lines of at most `width` pixels, broken between words."""
    out: list[str] = []
    words = text.split()
    while words and len(out) < lines:
        if len(out) == lines - 1:
            out.append(shortened(" ".join(words), font, width))
            break
        taken = next((n for n in count(1) if n == len(words) or font.getlength(" ".join(words[: n + 1])) > width), 1)
        out.append(shortened(" ".join(words[:taken]), font, width))
        words = words[taken:]
    return out


def paint_masks(
    picture: np.ndarray,
    masks: Sequence[np.ndarray | None],
    colours: Sequence[str],
    size: tuple[int, int],
    line: int,
) -> np.ndarray:
    """The resized picture with masks filled and outlined.

    Args:
        picture: RGB uint8 [H, W, 3].
        masks: bool [H, W] each, or None for an absent object.
        colours: "#rrggbb" of each mask.
        size: (width, height) of the returned picture in pixels.
        line: width of the outline in pixels.

    Returns:
        RGB uint8 [height, width, 3].
    """
    factor = size[0] / picture.shape[1]
    canvas = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    soft_masks = [None if mask is None else _soft(mask, size, factor) for mask in masks]
    for soft, colour in zip(soft_masks, colours, strict=True):
        if soft is not None:
            _fill(canvas, soft, rgb(colour))
    for soft, colour in zip(soft_masks, colours, strict=True):
        if soft is not None:
            _outline(canvas, soft, rgb(colour), line)
    return canvas


def _soft(mask: np.ndarray, size: tuple[int, int], factor: float) -> np.ndarray:
    """The resized mask with a smooth edge, uint8 [height, width]; the edge is at half of the maximum."""
    soft = cv2.resize(
        mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    )
    smooth = cv2.GaussianBlur(soft, (0, 0), 0.8 * max(1.0, factor))
    # Smoothing would erase a mask that is only a pixel wide.
    return smooth if smooth.max(initial=0) >= 160 else soft


def _fill(canvas: np.ndarray, soft: np.ndarray, colour: Colour) -> None:
    left, top, width, height = cv2.boundingRect(soft)
    inside = np.s_[top : top + height, left : left + width]
    share = soft[inside].astype(np.float32)[..., None] * (FILL_SHARE / 255)
    canvas[inside] = canvas[inside] * (1 - share) + np.asarray(colour, np.float32) * share + 0.5


def _outline(canvas: np.ndarray, soft: np.ndarray, colour: Colour, line: int) -> None:
    edge = min(128, int(soft.max(initial=0)))
    contours, _ = cv2.findContours((soft >= max(1, edge)).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    # A dark seam first, so that the line is visible on a background of its own colour.
    cv2.polylines(canvas, contours, True, (10, 10, 12), line + 2, cv2.LINE_AA)
    cv2.polylines(canvas, contours, True, colour, line, cv2.LINE_AA)


def rounded_box(image: Image.Image, area: Area, radius: int, fill: Colour, outline: Colour | None = None) -> None:
    """A filled box with smooth round corners, with a two-pixel border if `outline` is given."""
    left, top, right, bottom = area
    if outline is not None:
        image.paste(outline, (left, top), _round_mask(right - left, bottom - top, radius))
        left, top, right, bottom, radius = left + 2, top + 2, right - 2, bottom - 2, max(0, radius - 2)
    image.paste(fill, (left, top), _round_mask(right - left, bottom - top, radius))


@lru_cache(maxsize=256)
def _round_mask(width: int, height: int, radius: int) -> Image.Image:
    big = Image.new("L", (width * 4, height * 4), 0)
    ImageDraw.Draw(big).rounded_rectangle((0, 0, width * 4 - 1, height * 4 - 1), radius * 4, fill=255)
    return big.resize((width, height), Image.Resampling.LANCZOS)


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever has more contrast to `colour`."""
    red, green, blue = colour
    return (16, 18, 22) if 0.299 * red + 0.587 * green + 0.114 * blue > 125 else (255, 255, 255)


@dataclass
class Tags:
    """Name tags beside objects, without overlap, and on the same side from frame to frame.

    Args:
        size: height of the letters in pixels.
    """

    size: int
    _sides: dict[str, int] = field(default_factory=dict)

    def draw(self, image: Image.Image, objects: Sequence[tuple[str, str, Area]]) -> None:
        """Draws the tags of one frame; `objects` are (text, "#rrggbb", area of the object in the image)."""
        pen = ImageDraw.Draw(image)
        placed: list[Area] = []
        # Small objects first, because they have the fewest places for a tag.
        for text, colour, area in sorted(objects, key=lambda item: _extent(item[2])):
            font = fitted_font(text, self.size)
            pad = max(3, self.size // 3)
            width, height = round(font.getlength(text)) + 2 * pad, self.size + pad
            spots = _spots(area, width, height, image.size)
            others = [other for _, _, other in objects if other is not area]
            costs = [
                8 * sum(_overlap(spot, tag) for tag in placed)
                + sum(_overlap(spot, other) for other in others)
                + 0.5 * _overlap(spot, area)
                + width * height * (0.04 * side + (0.3 if self._sides.get(text, side) != side else 0))
                for side, spot in enumerate(spots)
            ]
            side = min(range(len(spots)), key=costs.__getitem__)
            self._sides[text] = side
            placed.append(spots[side])
            rounded_box(image, spots[side], max(3, height // 4), rgb(colour))
            centre = (spots[side][0] + pad, (spots[side][1] + spots[side][3]) / 2)
            pen.text(centre, text, ink_on(rgb(colour)), font, anchor="lm")


def _spots(area: Area, width: int, height: int, within: tuple[int, int]) -> list[Area]:
    """Places for a tag of that size around an object, best first, all inside the image."""
    left, top, right, bottom = area
    gap = 4
    corners = [
        (left, top - height - gap),
        (left, bottom + gap),
        (right - width, top - height - gap),
        (right - width, bottom + gap),
        (right + gap, top),
        (left - width - gap, top),
        (right + gap, bottom - height),
        (left - width - gap, bottom - height),
        (left + gap, top + gap),
        ((left + right - width) // 2, (top + bottom - height) // 2),
    ]
    spots = []
    for x, y in corners:
        x = min(max(x, 2), max(2, within[0] - width - 2))
        y = min(max(y, 2), max(2, within[1] - height - 2))
        spots.append((x, y, x + width, y + height))
    return spots


def _overlap(a: Area, b: Area) -> int:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _extent(area: Area) -> int:
    return (area[2] - area[0]) * (area[3] - area[1])
