"""COCO-VID: COCO's instances.json with videos, one annotation per object and frame (as read by mmtracking)."""

from __future__ import annotations

from trajseg.tracks import rle
from trajseg.tracks.formats.base import TrackFormat
from trajseg.tracks.formats.json_file import JsonFile
from trajseg.tracks.labelled import LabelledClip

CATEGORY = 1


class CocoVid(TrackFormat):
    """annotations.json and frames/<clip>/00000.jpg. Ids count from 1 over the whole file, `frame_id` from 0.

    An `instance_id` identifies a track. There is one category, "object"; instructions are in the video's `expressions`
    as {text, instance_ids}, captions in each annotation.
    """

    name = "coco-vid"
    summary = "COCO JSON with videos, one annotation an object and frame"

    def begin(self) -> None:
        self._instances = 0
        self._file = JsonFile({"categories": [{"id": CATEGORY, "name": "object", "supercategory": "object"}]})
        for section in ("videos", "images", "annotations"):
            self._file.section(section, "[]")

    def write(self, clip: LabelledClip) -> None:
        video_id = self._file.count("videos") + 1
        files = self.write_pictures(clip, f"frames/{clip.name}")
        instances = {track.uid: self._instances + number for number, track in enumerate(clip.shown, 1)}
        self._instances += len(instances)
        size = {"width": clip.width, "height": clip.height}
        expressions = [
            {"text": expression.text, "instance_ids": [instances[uid] for uid in expression.uids if uid in instances]}
            for expression in clip.expressions
        ]
        self._file.append("videos", {"id": video_id, "name": clip.name, **size, "expressions": expressions})
        for index, file in enumerate(files):
            image = {"video_id": video_id, "frame_id": index, "file_name": file, **size}
            image_id = self._file.count("images") + 1
            self._file.append("images", {"id": image_id, **image})
            for track in clip.shown:
                code = track.frames[index].rle
                if code is None:
                    continue
                self._file.append(
                    "annotations",
                    {
                        "id": self._file.count("annotations") + 1,
                        "image_id": image_id,
                        "video_id": video_id,
                        "category_id": CATEGORY,
                        "instance_id": instances[track.uid],
                        "segmentation": code,
                        "bbox": rle.box(code),
                        "area": rle.area(code),
                        "iscrowd": 0,
                        "track": track.label,
                        "caption": track.caption,
                    },
                )

    def finish(self) -> None:
        self._file.save(self.out / "annotations.json")
