"""The overlay video: the clip with its tracks drawn on it, below a bar with instruction and legend."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from trajseg.palette import palette, rgb
from trajseg.pictures.drawing import (
    BACKGROUND,
    FAINT,
    TEXT,
    Area,
    Tags,
    fitted_font,
    font_for,
    paint_masks,
    rounded_box,
    shortened,
    wrapped,
)
from trajseg.tracks.track import MaskTrack
from trajseg.video import Clip, write_video

SMALLEST, LARGEST = 640, 1280
"""Range of the picture's longer side in pixels: small clips are enlarged, large ones reduced."""

NARROWEST = 420
"""Minimum width of an overlay in pixels, so that the text above a narrow clip is readable."""

MARGIN = 14


def overlay_video(clip: Clip, tracks: Sequence[MaskTrack], path: str | os.PathLike[str], caption: str = "") -> Path:
    """Writes the clip with its tracks drawn on it, as H.264 that browsers play, one frame per frame.

    Masks are filled and outlined in their track's colour, with its label. The bar above shows the caption (the
    instruction), the frame number (from 1, as in Label Studio's editor), the time in seconds, and for each track
    its score in this frame, or that it is absent.
    """
    return write_video(path, overlay_frames(clip, tracks, caption), clip.fps)


def overlay_frames(
    clip: Clip, tracks: Sequence[MaskTrack], caption: str = "", indices: Sequence[int] | None = None
) -> Iterator[np.ndarray]:
    """Yields the pictures of `overlay_video`, RGB uint8 [H, W, 3]."""
    canvas = _Canvas(clip, tracks, caption)
    for index, picture in clip.frames(indices):
        yield canvas.draw(index, picture)


def picture_size(width: int, height: int, smallest: int, largest: int) -> tuple[int, int]:
    """Even (width, height) in pixels with the same aspect ratio, the longer side from `smallest` to `largest`."""
    longer = max(width, height)
    factor = min(max(1.0, smallest / longer), largest / longer)
    return max(2, round(width * factor / 2) * 2), max(2, round(height * factor / 2) * 2)


def track_areas(
    tracks: Sequence[MaskTrack], index: int, factor: tuple[float, float], colours: Sequence[str]
) -> list[tuple[str, str, Area]]:
    """(label, colour, area in the enlarged picture) of each track that frame `index` shows."""
    found: list[tuple[str, str, Area]] = []
    for track, colour in zip(tracks, colours, strict=True):
        box = track.box(index)
        if box is not None:
            x, y, width, height = box
            fx, fy = factor
            area = (round(x * fx), round(y * fy), round((x + width) * fx), round((y + height) * fy))
            found.append((track.label, colour, area))
    return found


def frame_masks(tracks: Sequence[MaskTrack], index: int) -> list[np.ndarray | None]:
    """Each track's mask in frame `index`, bool [H, W], or None if it is absent."""
    return [track.mask(index) if track.frames[index].rle is not None else None for track in tracks]


class _Canvas:
    """The layout of an overlay video, constant over its frames."""

    def __init__(self, clip: Clip, tracks: Sequence[MaskTrack], caption: str) -> None:
        self.clip, self.tracks = clip, tracks
        self.colours = palette(len(tracks))
        self.size = picture_size(clip.width, clip.height, SMALLEST, LARGEST)
        self.width = max(self.size[0], NARROWEST)
        self.letters = max(15, round(self.width / 48))
        self.small = max(13, round(self.letters * 0.8))
        self.line = max(2, round(min(self.size) / 240))
        self.tags = Tags(self.small)
        self.counter_width = round(font_for(self.small).getlength("frame 00000 / 00000")) + MARGIN
        font = fitted_font(caption, self.letters)
        self.title = wrapped(caption, font, self.width - 2 * MARGIN - self.counter_width, 3)
        self.title_font = font
        self.slots = self._legend_slots()
        title_height = max(len(self.title), 1) * round(self.letters * 1.35)
        self.legend_top = MARGIN + max(title_height, round(self.small * 2.7)) + MARGIN // 2
        rows = max((row for row, _, _ in self.slots), default=0) + 1
        bar = self.legend_top + rows * self.row_height + MARGIN
        self.bar = bar + bar % 2

    @property
    def row_height(self) -> int:
        return round(self.small * 1.6)

    def _legend_slots(self) -> list[tuple[int, int, int]]:
        """(row, left, width) of each track's entry; as many per row as fit."""
        room = self.width - 2 * MARGIN
        wanted = [
            round(fitted_font(text, self.small).getlength(text)) + 2 * self.small
            for text in (self._entry(track, "absent") for track in self.tracks)
        ]
        width = min(room, max(wanted, default=room))
        columns = max(1, min(len(self.tracks) or 1, room // width))
        width = room // columns
        return [(i // columns, MARGIN + (i % columns) * width, width) for i in range(len(self.tracks))]

    @staticmethod
    def _entry(track: MaskTrack, state: str) -> str:
        name = f"{track.label}: {track.caption}" if track.caption else track.label
        return f"{name} ({state})"

    def draw(self, index: int, picture: np.ndarray) -> np.ndarray:
        painted = paint_masks(picture, frame_masks(self.tracks, index), self.colours, self.size, self.line)
        scene = Image.fromarray(painted)
        factor = self.size[0] / self.clip.width, self.size[1] / self.clip.height
        self.tags.draw(scene, track_areas(self.tracks, index, factor, self.colours))
        image = Image.new("RGB", (self.width, self.bar + self.size[1]), BACKGROUND)
        image.paste(scene, ((self.width - self.size[0]) // 2, self.bar))
        self._draw_bar(image, index)
        return np.asarray(image)

    def _draw_bar(self, image: Image.Image, index: int) -> None:
        pen = ImageDraw.Draw(image)
        for line, text in enumerate(self.title):
            pen.text((MARGIN, MARGIN + line * self.letters * 1.35), text, TEXT, self.title_font)
        right = self.width - MARGIN
        small = font_for(self.small)
        pen.text((right, MARGIN), f"frame {index + 1} / {len(self.clip)}", FAINT, small, anchor="ra")
        time = self.clip.frame_map.times[index]
        pen.text((right, MARGIN + self.small * 1.35), f"{time:.2f} s", FAINT, small, anchor="ra")
        if not self.tracks:
            pen.text((MARGIN, self.legend_top), "no such object", FAINT, small)
        for track, colour, (row, left, width) in zip(self.tracks, self.colours, self.slots, strict=True):
            frame = track.frames[index]
            present = frame.rle is not None
            top = self.legend_top + row * self.row_height
            side = round(self.small * 0.9)
            box = (left, top, left + side, top + side)
            rounded_box(image, box, 3, rgb(colour) if present else BACKGROUND, rgb(colour))
            text = self._entry(track, f"{frame.score:.0%}" if present else "absent")
            font = fitted_font(text, self.small)
            fitting = shortened(text, font, width - side - self.small)
            spot = left + side + self.small // 2, top + side / 2
            pen.text(spot, fitting, TEXT if present else FAINT, font, anchor="lm")
