"""MeViS and ReVOS: sentences and their objects, with all masks in one dictionary."""

from __future__ import annotations

from trajseg.tracks.formats.base import TrackFormat
from trajseg.tracks.formats.json_file import JsonFile
from trajseg.tracks.labelled import LabelledClip

REFERRING, NO_TARGET = 0, 2
"""ReVOS's `type_id`. Whether a sentence needs reasoning (1) is unknown, so everything with a target is 0."""


class Mevis(TrackFormat):
    """meta_expressions.json, mask_dict.json and JPEGImages/<clip>/00000.jpg.

    `mask_dict` has, by each track's `anno_id` (counted from 0 over all clips), one run-length code or null per frame.
    An expression without a target has empty lists, as in MeViS v2. `captions` has the tracks' captions by `anno_id`.
    """

    name = "mevis"
    summary = "meta_expressions.json and mask_dict.json of MeViS and ReVOS"

    def begin(self) -> None:
        self._expressions, self._masks = JsonFile(), JsonFile()
        self._expressions.section("videos", "{}")

    def write(self, clip: LabelledClip) -> None:
        self.write_pictures(clip, f"JPEGImages/{clip.name}")
        first = self._masks.count("")
        places = {track.uid: place for place, track in enumerate(clip.shown)}
        for track in clip.shown:
            self._masks.put("", str(first + places[track.uid]), [frame.rle for frame in track.frames])
        expressions = {}
        for number, expression in enumerate(clip.expressions):
            objects = [places[uid] for uid in expression.uids if uid in places]
            expressions[str(number)] = {
                "exp": expression.text,
                "obj_id": objects,
                "anno_id": [first + place for place in objects],
                "type_id": REFERRING if objects else NO_TARGET,
            }
        form = {
            "frames": [f"{index:05d}" for index in range(clip.frame_count)],
            "height": clip.height,
            "width": clip.width,
            "vid_id": self._expressions.count("videos"),
            "expressions": expressions,
            "captions": {str(first + places[track.uid]): track.caption for track in clip.shown if track.caption},
        }
        self._expressions.put("videos", clip.name, form)

    def finish(self) -> None:
        self._expressions.save(self.out / "meta_expressions.json")
        self._masks.save(self.out / "mask_dict.json")
