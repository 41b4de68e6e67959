"""The contact sheet: evenly spaced frames with their tracks drawn on, as one PNG."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from trajseg.files import whole_file
from trajseg.palette import palette, rgb
from trajseg.pictures.drawing import (
    BACKGROUND,
    FAINT,
    TEXT,
    Tags,
    fitted_font,
    font_for,
    paint_masks,
    rounded_box,
    shortened,
    wrapped,
)
from trajseg.pictures.overlay import frame_masks, track_areas
from trajseg.tracks.track import MaskTrack
from trajseg.video import Clip
from trajseg.video.spacing import end_to_end

CELL_WIDTH, CELL_HEIGHT = 312, 240
"""Maximum size of a frame in pixels."""

NARROWEST = 640
MARGIN, GAP = 24, 12
TITLE, SMALL = 24, 15
OUTLINE = 3
"""Pixels of a mask's outline at twice the size of the sheet."""


def contact_sheet(
    clip: Clip,
    tracks: Sequence[MaskTrack],
    path: str | os.PathLike[str],
    columns: int = 6,
    count: int = 12,
    title: str = "",
    frames: Sequence[int] | None = None,
) -> Path:
    """Writes `count` frames, evenly spaced from the first to the last, as one PNG.

    Below each frame are its number (from 1, as in Label Studio's editor), its time in seconds, and the tracks that it
    does not show. A clip of fewer frames gives fewer pictures. If the clip consists of frames of another clip, `frames`
    has their 0-based indices there, which are shown instead.
    """
    indices = end_to_end(len(clip), count)
    sheet = _Sheet(clip, tracks, indices, min(columns, len(indices)), title, frames)
    for position, (index, picture) in enumerate(clip.frames(indices)):
        sheet.add(position, index, picture)
    with whole_file(path) as unfinished:
        sheet.image.save(unfinished, format="PNG")
    return Path(path)


class _Sheet:
    """The page and its layout."""

    def __init__(
        self,
        clip: Clip,
        tracks: Sequence[MaskTrack],
        indices: Sequence[int],
        columns: int,
        title: str,
        frames: Sequence[int] | None = None,
    ) -> None:
        self.numbers = range(len(clip)) if frames is None else frames
        self.clip, self.tracks, self.columns = clip, tracks, columns
        self.colours = palette(len(tracks))
        factor = min(CELL_WIDTH / clip.width, CELL_HEIGHT / clip.height)
        self.cell = max(8, round(clip.width * factor)), max(8, round(clip.height * factor))
        # Room for the text below a frame, however narrow the frame.
        self.step_x = max(self.cell[0], 150) + GAP
        width = max(NARROWEST, 2 * MARGIN + columns * self.step_x - GAP)
        title_font = fitted_font(title, TITLE)
        lines = wrapped(title, title_font, width - 2 * MARGIN, 3)
        self.legend_top = MARGIN + round(len(lines) * TITLE * 1.4) + (GAP // 2 if lines else 0)
        self.top = self.legend_top + max(1, len(tracks)) * round(SMALL * 1.7) + GAP
        self.row_tops = [self.top]
        for row in range(0, len(indices), columns):
            absences = any(
                track.frames[index].rle is None for track in tracks for index in indices[row : row + columns]
            )
            words = round(SMALL * (3.2 if absences else 1.8))
            self.row_tops.append(self.row_tops[-1] + self.cell[1] + words + GAP)
        self.image = Image.new("RGB", (width, self.row_tops[-1] + MARGIN - GAP), BACKGROUND)
        self.pen = ImageDraw.Draw(self.image)
        for line, text in enumerate(lines):
            self.pen.text((MARGIN, MARGIN + line * TITLE * 1.4), text, TEXT, title_font)
        self._draw_legend(width - 2 * MARGIN)

    def _draw_legend(self, room: int) -> None:
        if not self.tracks:
            self.pen.text((MARGIN, self.legend_top), "no such object", FAINT, font_for(SMALL))
        for row, (track, colour) in enumerate(zip(self.tracks, self.colours, strict=True)):
            top = self.legend_top + row * round(SMALL * 1.7)
            rounded_box(self.image, (MARGIN, top, MARGIN + SMALL, top + SMALL), 4, rgb(colour))
            middle = top + SMALL / 2
            name = f"{track.label}: {track.caption}" if track.caption else track.label
            facts = f"score {track.score:.2f}, in {len(track.present)} of {len(track)} frames"
            font, facts_font = fitted_font(name, SMALL), font_for(SMALL)
            left = MARGIN + SMALL + 8
            name = shortened(name, font, room - SMALL - 24 - facts_font.getlength(facts))
            self.pen.text((left, middle), name, TEXT, font, anchor="lm")
            self.pen.text((left + font.getlength(name) + 14, middle), facts, FAINT, facts_font, anchor="lm")

    def add(self, position: int, index: int, picture: np.ndarray) -> None:
        """Draws frame `index` (RGB uint8 [H, W, 3]) into the cell at `position`, counted by rows from 0."""
        left = MARGIN + position % self.columns * self.step_x
        top = self.row_tops[position // self.columns]
        # Drawn at twice the size, for lines finer than a pixel.
        twice = self.cell[0] * 2, self.cell[1] * 2
        painted = paint_masks(picture, frame_masks(self.tracks, index), self.colours, twice, OUTLINE)
        scene = Image.fromarray(painted).resize(self.cell, Image.Resampling.BOX)
        factor = self.cell[0] / self.clip.width, self.cell[1] / self.clip.height
        Tags(12).draw(scene, track_areas(self.tracks, index, factor, self.colours))
        self.image.paste(scene, (left, top))
        below = top + self.cell[1] + 6
        when = f"frame {self.numbers[index] + 1}   {self.clip.frame_map.times[index]:.2f} s"
        self.pen.text((left, below), when, TEXT, font_for(SMALL))
        absent = [track.label for track in self.tracks if track.frames[index].rle is None]
        if absent:
            all_gone = len(absent) == len(self.tracks) > 1
            text = "absent: " + ("all tracks" if all_gone else ", ".join(absent))
            font = fitted_font(text, SMALL - 2)
            text = shortened(text, font, self.step_x - GAP)
            self.pen.text((left, below + SMALL * 1.4), text, FAINT, font)
