"""DAVIS 2017: palette PNG masks, JPEG frames and a list of sequences, at the video's own resolution."""

from __future__ import annotations

import numpy as np
from PIL import Image

from trajseg.errors import InputError
from trajseg.tracks.formats.base import TrackFormat
from trajseg.tracks.formats.json_file import JsonFile
from trajseg.tracks.labelled import LabelledClip

RESOLUTION = "Full-Resolution"
MOST_OBJECTS = 254
"""Pixel values 1 to 254; 255 is DAVIS's void."""


def davis_palette() -> list[int]:
    """The palette of DAVIS (and PASCAL VOC) for Pillow: three values for each of 256 colours."""
    colours = np.zeros((256, 3), int)
    for value in range(256):
        for bit in range(8):
            for channel in range(3):
                colours[value, channel] |= (value >> (3 * bit + channel) & 1) << (7 - bit)
    return [int(channel) for channel in colours.reshape(-1)]


class Davis(TrackFormat):
    """JPEGImages, Annotations and ImageSets as in DAVIS 2017, and meta_expressions.json as in Ref-DAVIS.

    A pixel's value is the track's number in its clip, from 1. A pixel has one object, so overlap goes to the track with
    the higher score. An expression for several objects becomes one entry per object; one without objects is left out,
    because Ref-DAVIS has none. Captions are under `captions`, by object.
    """

    name = "davis"
    summary = "palette PNG and JPEG folders of DAVIS 2017, with expressions"

    def begin(self) -> None:
        self._palette = davis_palette()
        self._clips: list[str] = []
        self._expressions = JsonFile()
        self._expressions.section("videos", "{}")

    def write(self, clip: LabelledClip) -> None:
        if len(clip.shown) > MOST_OBJECTS:
            raise InputError(
                f"Clip {clip.name} has {len(clip.shown)} tracks, but DAVIS allows {MOST_OBJECTS}.",
                "Export it as youtube-vis or coco-vid.",
            )
        self.write_pictures(clip, f"JPEGImages/{RESOLUTION}/{clip.name}")
        folder = self.out / "Annotations" / RESOLUTION / clip.name
        folder.mkdir(parents=True)
        for index in range(clip.frame_count):
            values = np.zeros((clip.height, clip.width), np.uint8)
            for place, mask in clip.separate(index):
                values[mask] = place + 1
            picture = Image.fromarray(values)
            picture.putpalette(self._palette)
            picture.save(folder / f"{index:05d}.png")
        numbers = {track.uid: str(number) for number, track in enumerate(clip.shown, 1)}
        entries = [
            {"exp": expression.text, "obj_id": numbers[uid]}
            for expression in clip.expressions
            for uid in expression.uids
            if uid in numbers
        ]
        form = {
            "frames": [f"{index:05d}" for index in range(clip.frame_count)],
            "expressions": {str(number): entry for number, entry in enumerate(entries)},
            "captions": {numbers[track.uid]: track.caption for track in clip.shown if track.caption},
        }
        self._expressions.put("videos", clip.name, form)
        self._clips.append(clip.name)

    def finish(self) -> None:
        self._expressions.save(self.out / "meta_expressions.json")
        lists = self.out / "ImageSets" / "2017"
        lists.mkdir(parents=True)
        (lists / "train.txt").write_text("".join(f"{name}\n" for name in self._clips), encoding="utf-8")
