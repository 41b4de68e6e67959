"""MOTS: one text file per sequence, one line per object and frame, masks as COCO run-length codes."""

from __future__ import annotations

from trajseg.tracks import rle
from trajseg.tracks.formats.base import TrackFormat
from trajseg.tracks.formats.json_file import JsonFile
from trajseg.tracks.labelled import LabelledClip

CLASS = 1
IDS_PER_CLASS = 1000


class Mots(TrackFormat):
    """<clip>/gt/gt.txt, <clip>/img1/000001.jpg and <clip>/seqinfo.ini, as in MOTSChallenge.

    A line is `frame id class height width rle`; frames count from 1, an id is 1000 times the class plus the track's
    number in its clip. There is one class, 1. Masks of one frame may not overlap in MOTS, so overlap goes to the track
    with the higher score. expressions.json has instructions and captions: MOTS has no fields for them.
    """

    name = "mots"
    summary = "text lines with run-length codes, as MOTSChallenge has them"

    def begin(self) -> None:
        self._words = JsonFile()

    def write(self, clip: LabelledClip) -> None:
        self.write_pictures(clip, f"{clip.name}/img1", first=1, digits=6)
        ids = {track.uid: IDS_PER_CLASS * CLASS + number for number, track in enumerate(clip.shown, 1)}
        folder = self.out / clip.name
        (folder / "gt").mkdir(parents=True)
        with (folder / "gt" / "gt.txt").open("w", encoding="ascii") as file:
            for index in range(clip.frame_count):
                for place, mask in sorted(clip.separate(index), key=lambda held: held[0]):
                    number, code = ids[clip.shown[place].uid], rle.encode(mask)["counts"]
                    file.write(f"{index + 1} {number} {CLASS} {clip.height} {clip.width} {code}\n")
        info = {
            "name": clip.name,
            "imDir": "img1",
            "frameRate": f"{clip.fps:g}",
            "seqLength": clip.frame_count,
            "imWidth": clip.width,
            "imHeight": clip.height,
            "imExt": ".jpg",
        }
        lines = ["[Sequence]", *(f"{key}={value}" for key, value in info.items())]
        (folder / "seqinfo.ini").write_text("\n".join(lines) + "\n", encoding="ascii")
        expressions = [
            {"text": expression.text, "ids": [ids[uid] for uid in expression.uids if uid in ids]}
            for expression in clip.expressions
        ]
        captions = {str(ids[track.uid]): track.caption for track in clip.shown if track.caption}
        self._words.put("", clip.name, {"expressions": expressions, "captions": captions})

    def finish(self) -> None:
        self._words.save(self.out / "expressions.json")
