"""PNG masks: one black and white picture per track and frame."""

from __future__ import annotations

import numpy as np
from PIL import Image

from trajseg.tracks.formats.base import TrackFormat
from trajseg.tracks.labelled import LabelledClip


class PngMasks(TrackFormat):
    """<clip>/masks/<number>/00000.png (0 or 255, every frame), <clip>/frames/00000.jpg and <clip>/tracks.json.

    Tracks are numbered from 1. tracks.json has their labels and captions, and the instructions.
    """

    name = "png"
    summary = "black and white PNG masks, a folder for each track"

    def write(self, clip: LabelledClip) -> None:
        self.write_pictures(clip, f"{clip.name}/frames")
        numbers = {track.uid: number for number, track in enumerate(clip.shown, 1)}
        for track in clip.shown:
            folder = self.out / clip.name / "masks" / str(numbers[track.uid])
            folder.mkdir(parents=True)
            for index in range(clip.frame_count):
                picture = track.mask(index).astype(np.uint8) * 255
                Image.fromarray(picture).save(folder / f"{index:05d}.png")
        tracks = [
            {"number": numbers[track.uid], "label": track.label, "caption": track.caption} for track in clip.shown
        ]
        expressions = [
            {"text": expression.text, "tracks": [numbers[uid] for uid in expression.uids if uid in numbers]}
            for expression in clip.expressions
        ]
        self.write_json(f"{clip.name}/tracks.json", {"tracks": tracks, "expressions": expressions})
