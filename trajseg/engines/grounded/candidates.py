"""Candidates: mask tracks of a whole clip that may be what an instruction means."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from trajseg.engines.base import FrameMasks, ObjectMask, TrackedObject
from trajseg.progress import Progress
from trajseg.tracks import rle
from trajseg.tracks.rle import Box, Rle
from trajseg.video import Clip


@dataclass
class CandidateFrame:
    """A candidate in one frame; see ObjectMask. `seen`: the detector found it in this frame."""

    rle: Rle | None = None
    score: float = 0.0
    presence: float = 0.0
    seen: bool = False


@dataclass
class Candidate:
    """One object over a clip, with one CandidateFrame for each frame of the clip.

    Args:
        phrase: by which the detector found it.
        score: the detector's, 0 to 1, the mean over the frames on which it saw the object.
        frames: of the clip, in order.
        start: the 0-based frame on which it was first seen.
    """

    phrase: str
    score: float
    start: int
    frames: list[CandidateFrame] = field(default_factory=list)
    sightings: int = 1

    @property
    def shown(self) -> list[int]:
        """0-based frames that show it."""
        return [index for index, frame in enumerate(self.frames) if frame.rle is not None]

    def box(self, index: int) -> Box | None:
        """x, y, width, height in pixels in frame `index`; None where it is absent."""
        code = self.frames[index].rle
        return None if code is None else rle.box(code)

    def sight(self, score: float) -> None:
        """Count one more frame in which the detector found it."""
        self.score = (self.score * self.sightings + score) / (self.sightings + 1)
        self.sightings += 1

    def best_frames(self) -> list[int]:
        """The frames that show it, the best ones first: large and sure."""
        return sorted(
            self.shown,
            key=lambda index: -self.frames[index].score * rle.area(self.frames[index].rle or _NOTHING) ** 0.5,
        )


_NOTHING: Rle = {"size": [1, 1], "counts": "1"}


def frame_masks(
    objects: Sequence[TrackedObject], candidates: Sequence[Candidate], weights: Sequence[float], done: Container[int]
) -> Iterator[FrameMasks]:
    """The masks of objects, each a candidate, in every frame that is not done, in order.

    Args:
        weights: what each object's scores are multiplied with, 0 to 1.
        done: 0-based frames to leave out.
    """
    for index in range(len(candidates[0].frames) if candidates else 0):
        if index not in done:
            masks = {}
            for thing, candidate, weight in zip(objects, candidates, weights, strict=True):
                frame = candidate.frames[index]
                score = min(1.0, max(0.0, frame.score * weight))
                masks[thing.uid] = ObjectMask(frame.rle, score, frame.presence)
            yield FrameMasks(index, masks)


class CandidateMaker(Protocol):
    """Finds candidates: a detector with SAM 2 (CandidateSearch), or SAM 3 by itself (Sam3Search)."""

    def find(self, clip: Clip, phrases: Sequence[str], progress: Progress | None = None) -> list[Candidate]:
        """Everything in the clip that one of the noun phrases fits; `progress` is called after every frame.

        Raises VideoError, InstructionError where a phrase is too long, or whatever `progress` raises.
        """
