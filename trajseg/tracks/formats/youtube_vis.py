"""YouTube-VIS: instances.json with one annotation per track, its masks listed frame by frame."""

from __future__ import annotations

from trajseg.tracks import rle
from trajseg.tracks.formats.base import TrackFormat
from trajseg.tracks.formats.json_file import JsonFile
from trajseg.tracks.labelled import LabelledClip

CATEGORY = 1


class YouTubeVis(TrackFormat):
    """instances.json and JPEGImages/<clip>/00000.jpg. Ids count from 1; absent frames are null.

    There is one category, "object"; instructions are in the video's `expressions` as {text, annotation_ids},
    captions in each annotation.
    """

    name = "youtube-vis"
    summary = "JSON, one annotation a track with a mask for each frame"

    def begin(self) -> None:
        self._file = JsonFile({"categories": [{"id": CATEGORY, "name": "object", "supercategory": "object"}]})
        for section in ("videos", "annotations"):
            self._file.section(section, "[]")

    def write(self, clip: LabelledClip) -> None:
        files = [file.removeprefix("JPEGImages/") for file in self.write_pictures(clip, f"JPEGImages/{clip.name}")]
        video_id, first = self._file.count("videos") + 1, self._file.count("annotations") + 1
        ids = {track.uid: first + number for number, track in enumerate(clip.shown)}
        size = {"width": clip.width, "height": clip.height, "length": clip.frame_count}
        expressions = [
            {"text": expression.text, "annotation_ids": [ids[uid] for uid in expression.uids if uid in ids]}
            for expression in clip.expressions
        ]
        self._file.append("videos", {"id": video_id, **size, "file_names": files, "expressions": expressions})
        for track in clip.shown:
            codes = [frame.rle for frame in track.frames]
            self._file.append(
                "annotations",
                {
                    "id": ids[track.uid],
                    "video_id": video_id,
                    "category_id": CATEGORY,
                    "segmentations": codes,
                    "bboxes": [rle.box(code) if code is not None else None for code in codes],
                    "areas": [rle.area(code) if code is not None else None for code in codes],
                    "iscrowd": 0,
                    **size,
                    "track": track.label,
                    "caption": track.caption,
                },
            )

    def finish(self) -> None:
        self._file.save(self.out / "instances.json")
