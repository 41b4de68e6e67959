"""trajseg's own format: tracks with the trust of each frame, and the videos; used for training."""

from __future__ import annotations

import os
from pathlib import Path

from trajseg.files import copy_whole
from trajseg.tracks.formats.base import TrackFormat
from trajseg.tracks.formats.json_file import JsonFile
from trajseg.tracks.labelled import LabelledClip
from trajseg.video.look import Look

VERSION = 1


class Native(TrackFormat):
    """manifest.json, tracks/<clip>.json and videos/<clip>.<suffix> (a hard link if the file system allows it).

    The manifest lists the clips with `video` (missing without pictures), `source`, `identity`, and once it has been
    decided `side` ("train" or "held-out", see trajseg.data.sides); `copies` has pairs of identities whose videos share
    frames (see trajseg.video.look). A clip's tracks have the form of a result's JSON, and `trust` (a word per frame),
    `rejected` and `caption_trust` (a word); `expressions` are {text, uids, trust}. `trajseg.data.corrections` reads it.
    """

    name = "trajseg"
    summary = "everything: tracks with trust for each frame, and videos"

    def begin(self) -> None:
        self._manifest = JsonFile({"version": VERSION})
        for section in ("clips", "copies"):
            self._manifest.section(section, "[]")
        self._looks: dict[str, Look] = {}

    def write(self, clip: LabelledClip) -> None:
        entry = {
            "name": clip.name,
            "tracks": f"tracks/{clip.name}.json",
            "video": self._video(clip),
            "source": clip.video,
            "identity": clip.identity,
            "width": clip.width,
            "height": clip.height,
            "fps": clip.fps,
            "frame_count": clip.frame_count,
        }
        if clip.side:
            entry["side"] = clip.side
        tracks = [
            {
                **held.track.to_json(),
                "instruction": held.track.instruction,
                "provenance": held.track.provenance,
                "rejected": held.rejected,
                "trust": [trust.word for trust in held.trust],
                "caption_trust": held.caption_trust.word,
            }
            for held in clip.tracks
        ]
        expressions = [
            {"text": expression.text, "uids": list(expression.uids), "trust": expression.trust.word}
            for expression in clip.expressions
        ]
        self.write_json(f"tracks/{clip.name}.json", {"tracks": tracks, "expressions": expressions})
        self._manifest.append("clips", entry)
        self._compare(clip)

    def finish(self) -> None:
        self._manifest.save(self.out / "manifest.json")

    def _compare(self, clip: LabelledClip) -> None:
        """Records of which earlier videos this one is a copy."""
        if clip.look is None or clip.identity in self._looks:
            return
        for identity, look in self._looks.items():
            if look.shares_frames_with(clip.look):
                self._manifest.append("copies", [identity, clip.identity])
        self._looks[clip.identity] = clip.look

    def _video(self, clip: LabelledClip) -> str | None:
        if not self.pictures or clip.clip is None:
            return None
        source = Path(clip.clip.path)
        name = f"videos/{clip.name}{source.suffix.lower()}"
        target = self.out / name
        target.parent.mkdir(exist_ok=True)
        try:
            os.link(source.resolve(), target)
        except OSError:
            # Another file system, or one without hard links.
            copy_whole(source, target)
        return name
