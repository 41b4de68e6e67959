"""Two results side by side: agreement over time as a curve, and below it frames with the tracks of both."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from trajseg.files import whole_file
from trajseg.palette import palette, rgb
from trajseg.pictures.drawing import BACKGROUND, FAINT, TEXT, Tags, fitted_font, font_for, paint_masks, shortened
from trajseg.pictures.overlay import frame_masks, track_areas
from trajseg.tracks import Result
from trajseg.video import Clip

WIDTH, MARGIN, GAP = 1000, 24, 12
TITLE, SMALL = 22, 15
CURVE_HEIGHT = 120


def side_by_side(
    clip: Clip,
    results: tuple[Result, Result],
    agreement: Sequence[float],
    frames: Sequence[int],
    path: str | os.PathLike[str],
    title: str = "",
) -> Path:
    """Writes one PNG.

    Args:
        results: of this clip; the first is on the left.
        agreement: 0 to 1 by frame.
        frames: 0-based, in the order shown, one below the other.
        title: the line at the top.
    """
    width = (WIDTH - 2 * MARGIN - GAP) // 2
    factor = min(width / clip.width, 360 / clip.height)
    cell = max(8, round(clip.width * factor)), max(8, round(clip.height * factor))
    step = cell[1] + GAP + round(SMALL * 1.8)
    top = MARGIN + round(TITLE * 1.6) + CURVE_HEIGHT + round(SMALL * 5)
    image = Image.new("RGB", (WIDTH, top + max(1, len(frames)) * step + MARGIN), BACKGROUND)
    pen = ImageDraw.Draw(image)
    font = fitted_font(title, TITLE)
    pen.text((MARGIN, MARGIN), shortened(title, font, WIDTH - 2 * MARGIN), TEXT, font)
    _draw_curve(pen, agreement, frames, MARGIN + round(TITLE * 1.6))
    lefts = (MARGIN, MARGIN + width + GAP)
    for result, left in zip(results, lefts, strict=True):
        count = len(result.tracks)
        words = f"{result.model_version}: {count} track{'' if count == 1 else 's'}"
        pen.text((left, top - SMALL * 1.8), shortened(words, font_for(SMALL), width), TEXT, font_for(SMALL))
    if not frames:
        pen.text((MARGIN, top), "Both agree on every frame.", FAINT, font_for(SMALL))
    rows = {index: row for row, index in enumerate(frames)}
    for index, picture in clip.frames(frames):
        y = top + rows[index] * step
        for result, left in zip(results, lefts, strict=True):
            image.paste(_painted(picture, result, index, cell), (left, y))
        when = f"frame {index + 1}   {clip.frame_map.times[index]:.2f} s   agreement {agreement[index]:.2f}"
        pen.text((MARGIN, y + cell[1] + 4), when, TEXT, font_for(SMALL))
    with whole_file(path) as unfinished:
        image.save(unfinished, format="PNG")
    return Path(path)


def _painted(picture: np.ndarray, result: Result, index: int, cell: tuple[int, int]) -> Image.Image:
    colours = palette(len(result.tracks))
    twice = cell[0] * 2, cell[1] * 2
    painted = paint_masks(picture, frame_masks(result.tracks, index), colours, twice, 3)
    scene = Image.fromarray(painted).resize(cell, Image.Resampling.BOX)
    factor = cell[0] / result.width, cell[1] / result.height
    Tags(12).draw(scene, track_areas(result.tracks, index, factor, colours))
    return scene


def _draw_curve(pen: ImageDraw.ImageDraw, agreement: Sequence[float], frames: Sequence[int], top: int) -> None:
    """The agreement over time, with a dot at each shown frame."""
    font, left, right = font_for(SMALL), MARGIN + 40, WIDTH - MARGIN
    colour = rgb(palette(2)[1])

    def place(index: int) -> tuple[float, float]:
        x = left + (right - left) * index / max(1, len(agreement) - 1)
        return x, top + CURVE_HEIGHT * (1 - agreement[index])

    for value in (0.0, 0.5, 1.0):
        y = top + CURVE_HEIGHT * (1 - value)
        pen.line([(left, y), (right, y)], fill=(52, 57, 66))
        pen.text((left - 8, y), f"{value:.1f}", FAINT, font, anchor="rm")
    points = [place(index) for index in range(len(agreement))]
    pen.line(points if len(points) > 1 else points * 2, fill=colour, width=2)
    for index in frames:
        x, y = place(index)
        pen.ellipse([x - 4, y - 4, x + 4, y + 4], fill=rgb(palette(1)[0]))
    words = f"agreement (IoU) by frame, 1 to {len(agreement)}; dots: the frames below"
    pen.text((left, top + CURVE_HEIGHT + 10), words, FAINT, font)
