"""The result of one run: video, instruction, the model's words, and the mask tracks; as JSON, version 1."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trajseg.errors import InputError
from trajseg.files import whole_file
from trajseg.tracks.rle import REWRITE
from trajseg.tracks.track import MaskTrack

VERSION = 1
_MARK = re.compile(r"[ \t]*\[SEG\]")
_GAP = re.compile(r"[ \t]+(?=[.,;:!?])")


def plain(answer: str) -> str:
    """A model's answer for people: without [SEG], and without spaces before punctuation; lines stay lines."""
    return _GAP.sub("", _MARK.sub("", answer)).strip()


@dataclass
class Result:
    """What an engine found.

    Args:
        video: the video as it was named: a path or URL.
        fps: frames per second, on average.
        width, height: pixels of a frame.
        frame_count: frames that decode; every track has as many.
        instruction: the sentence that was asked.
        answer: the model's text, [SEG] kept.
        model_version: engine, base weights and adapter.
        tracks: none when no object is meant.
        timings: seconds by stage; not part of the JSON form.
    """

    video: str
    fps: float
    width: int
    height: int
    frame_count: int
    instruction: str
    answer: str
    model_version: str
    tracks: list[MaskTrack] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def plain_answer(self) -> str:
        """The answer as people read it; see `plain`."""
        return plain(self.answer)

    def to_json(self) -> dict[str, Any]:
        """The JSON form that other programs rely on."""
        return {
            "version": VERSION,
            "video": self.video,
            "fps": self.fps,
            "width": self.width,
            "height": self.height,
            "frame_count": self.frame_count,
            "instruction": self.instruction,
            "answer": self.answer,
            "model_version": self.model_version,
            "tracks": [track.to_json() for track in self.tracks],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Result:
        """The result of a JSON form, all of it checked.

        Raises:
            InputError: another version, something missing, or something that cannot be.
        """
        if not isinstance(data, dict) or data.get("version") != VERSION:
            raise InputError(f"This is not a trajseg result of version {VERSION}.", REWRITE)
        try:
            width, height = int(data["width"]), int(data["height"])
            result = cls(
                video=str(data["video"]),
                fps=float(data["fps"]),
                width=width,
                height=height,
                frame_count=int(data["frame_count"]),
                instruction=str(data["instruction"]),
                answer=str(data["answer"]),
                model_version=str(data["model_version"]),
                tracks=[
                    MaskTrack.from_json(track, height=height, width=width, instruction=str(data["instruction"]))
                    for track in data["tracks"]
                ],
            )
        except InputError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"The result cannot be read: {type(error).__name__} {error}.", REWRITE) from error
        for track in result.tracks:
            if len(track) != result.frame_count:
                raise InputError(
                    f"Track {track.uid} has {len(track)} frames, the result says {result.frame_count}.", REWRITE
                )
        if len({track.uid for track in result.tracks}) < len(result.tracks):
            raise InputError("Two tracks of the result have the same uid.", REWRITE)
        return result

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the JSON form; the file is there only once it is whole."""
        with whole_file(path) as unfinished:
            unfinished.write_text(json.dumps(self.to_json(), ensure_ascii=False), encoding="utf-8")
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Result:
        """Read what `save` wrote.

        Raises:
            InputError: there is no such file, or it is not a result.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} cannot be read as a result: {error}.", "Give the tracks.json that `trajseg segment` writes."
            ) from error
        return cls.from_json(data)
