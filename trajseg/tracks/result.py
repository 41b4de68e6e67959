"""The result of one run: video, instruction, the model's answer, and the mask tracks; JSON format version 1."""

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
    """A model's answer for people: without [SEG], and without spaces before punctuation; line breaks are kept."""
    return _GAP.sub("", _MARK.sub("", answer)).strip()


@dataclass
class Result:
    """An engine's result.

    Args:
        video: the video as given: a path or URL.
        fps: frames per second, on average.
        width, height: of a frame, in pixels.
        frame_count: number of decodable frames; every track has as many.
        instruction: the instruction.
        answer: the model's text, including [SEG].
        model_version: of engine, base weights and adapter.
        tracks: empty if no object is meant.
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
        """The answer for people; see `plain`."""
        return plain(self.answer)

    def to_json(self) -> dict[str, Any]:
        """The JSON form; other programs rely on it."""
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
        """Reads and validates the JSON form.

        Raises:
            InputError: the version differs, or something is missing or invalid.
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
        """Writes the JSON form; the file appears only when complete."""
        with whole_file(path) as unfinished:
            unfinished.write_text(json.dumps(self.to_json(), ensure_ascii=False), encoding="utf-8")
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Result:
        """Reads a file written by `save`.

        Raises:
            InputError: the file is missing, or is not a result.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} cannot be read as a result: {error}.", "Give the tracks.json that `trajseg segment` writes."
            ) from error
        return cls.from_json(data)
