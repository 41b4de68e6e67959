"""The mask track: one object over a whole clip."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trajseg.errors import InputError
from trajseg.tracks import rle as rle_codes
from trajseg.tracks.rle import REWRITE, Box, Rle


@dataclass
class TrackFrame:
    """One object in one frame.

    Args:
        index: frame of the clip, 0-based.
        time: presentation time in seconds.
        score: the engine's certainty about this frame, 0 to 1.
        rle: the mask; None if the object is absent.
        provenance: source of this frame, if it differs from the track's: "person", or a propagator's name.
    """

    index: int
    time: float
    score: float
    rle: Rle | None
    provenance: str = ""

    def to_json(self) -> dict[str, Any]:
        """The frame's form in a result's JSON; `provenance` only if it is set."""
        data = {"index": self.index, "time": self.time, "score": self.score, "rle": self.rle}
        return data | {"provenance": self.provenance} if self.provenance else data


@dataclass
class MaskTrack:
    """One object over the whole clip, with one entry per frame, in order.

    Args:
        uid: name of the track, unique in its result.
        label: its label in Label Studio, such as "track-1".
        caption: a sentence about the object; may be empty.
        score: the engine's certainty about the track, 0 to 1.
        frames: one per frame of the clip.
        instruction: the instruction that it answers.
        provenance: its source: "model" or "person".
    """

    uid: str
    label: str
    caption: str
    score: float
    frames: list[TrackFrame] = field(default_factory=list)
    instruction: str = ""
    provenance: str = "model"

    @classmethod
    def from_masks(
        cls,
        uid: str,
        masks: Iterable[np.ndarray | None],
        times: Sequence[float],
        scores: Sequence[float],
        *,
        label: str = "",
        caption: str = "",
        instruction: str = "",
        provenance: str = "model",
    ) -> MaskTrack:
        """A track from one mask per frame, bool [H, W]; an empty mask or None means that the object is absent.

        The track's score is the mean score of the frames that show it, 0 if none does.
        `masks` may be a generator.

        Raises:
            InputError: the numbers of masks, times and scores differ.
        """
        codes = [rle_codes.encode(mask) if mask is not None and mask.any() else None for mask in masks]
        if not len(codes) == len(times) == len(scores):
            raise InputError(
                f"track {uid} has {len(codes)} masks, {len(times)} times and {len(scores)} scores",
                "Give one of each for every frame of the clip.",
            )
        frames = [
            TrackFrame(index, float(time), float(score), code)
            for index, (time, score, code) in enumerate(zip(times, scores, codes, strict=True))
        ]
        shown = [frame.score for frame in frames if frame.rle is not None]
        score = sum(shown) / len(shown) if shown else 0.0
        return cls(uid, label or uid, caption, score, frames, instruction, provenance)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def present(self) -> list[int]:
        """Indices of the frames that show the object, in order."""
        return [frame.index for frame in self.frames if frame.rle is not None]

    def mask(self, index: int, size: tuple[int, int] | None = None) -> np.ndarray:
        """The mask in frame `index`, bool [H, W]; empty if the object is absent.

        Args:
            index: 0-based.
            size: (H, W), only needed if no frame of the track has a mask.

        Raises:
            IndexError: the track has no such frame.
            InputError: no frame has a mask and `size` is not given.
        """
        code = self._frame(index).rle
        if code is not None:
            return rle_codes.decode(code)
        known = next((tuple(frame.rle["size"]) for frame in self.frames if frame.rle is not None), size)
        if known is None:
            raise InputError(
                f"Track {self.uid} is empty, so the size of its masks is not known.", "Pass height and width."
            )
        return np.zeros(known, bool)

    def box(self, index: int) -> Box | None:
        """x, y, width, height in pixels around the mask in frame `index`; None if the object is absent."""
        code = self._frame(index).rle
        return rle_codes.box(code) if code is not None else None

    def to_json(self) -> dict[str, Any]:
        """The track's form in a result's JSON."""
        return {
            "uid": self.uid,
            "label": self.label,
            "caption": self.caption,
            "score": self.score,
            "frames": [frame.to_json() for frame in self.frames],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], *, height: int, width: int, instruction: str = "") -> MaskTrack:
        """Reads the track of a result whose video has `width` x `height` pixels.

        Raises:
            InputError: something is missing or invalid.
        """
        try:
            frames = [_frame_from_json(frame, height, width) for frame in data["frames"]]
            track = cls(
                str(data["uid"]),
                str(data["label"]),
                str(data["caption"]),
                checked_score(data["score"]),
                frames,
                instruction,
            )
        except InputError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"A track cannot be read: {type(error).__name__} {error}.", REWRITE) from error
        if [frame.index for frame in frames] != list(range(len(frames))):
            raise InputError(f"The frames of track {track.uid} are not numbered 0, 1, 2, ... in order.", REWRITE)
        return track

    def _frame(self, index: int) -> TrackFrame:
        if not 0 <= index < len(self.frames):
            raise IndexError(f"frame {index} of a track of {len(self.frames)} frames")
        return self.frames[index]


def _frame_from_json(data: dict[str, Any], height: int, width: int) -> TrackFrame:
    code = data["rle"]
    return TrackFrame(
        index=int(data["index"]),
        time=float(data["time"]),
        score=checked_score(data["score"]),
        rle=None if code is None else rle_codes.checked(code, height, width),
        provenance=str(data.get("provenance", "")),
    )


def checked_score(value: Any) -> float:
    """A score from JSON; InputError unless it is between 0 and 1."""
    score = float(value)
    if not 0.0 <= score <= 1.0:
        raise InputError(f"A score must be between 0 and 1, got {value}.", "Pass a probability.")
    return score
