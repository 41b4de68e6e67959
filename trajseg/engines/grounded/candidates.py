"""Candidates: mask tracks over a whole clip that an instruction may refer to."""

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
    """A candidate on one frame; see ObjectMask. `seen`: the detector found it on this frame."""

    rle: Rle | None = None
    score: float = 0.0
    presence: float = 0.0
    seen: bool = False


@dataclass
class Candidate:
    """One object over a clip, with one CandidateFrame per frame of the clip.

    Args:
        phrase: the phrase that the detector matched.
        score: the detector's score, 0 to 1, averaged over the frames on which it found the object.
        start: the 0-based frame on which it was first detected.
        frames: one per frame of the clip, in order.
        sightings: number of frames on which the detector found it.
    """

    phrase: str
    score: float
    start: int
    frames: list[CandidateFrame] = field(default_factory=list)
    sightings: int = 1

    @property
    def shown(self) -> list[int]:
        """0-based frames on which it is visible."""
        return [index for index, frame in enumerate(self.frames) if frame.rle is not None]

    def box(self, index: int) -> Box | None:
        """x, y, width, height in pixels on frame `index`; None where it is absent."""
        code = self.frames[index].rle
        return None if code is None else rle.box(code)

    def sight(self, score: float) -> None:
        """Counts one more frame on which the detector found it, with this score."""
        self.score = (self.score * self.sightings + score) / (self.sightings + 1)
        self.sightings += 1

    def best_frames(self) -> list[int]:
        """The frames on which it is visible, the ones with the largest and most certain masks first."""
        return sorted(
            self.shown,
            key=lambda index: -self.frames[index].score * rle.area(self.frames[index].rle or _NOTHING) ** 0.5,
        )


_NOTHING: Rle = {"size": [1, 1], "counts": "1"}


def frame_masks(
    objects: Sequence[TrackedObject], candidates: Sequence[Candidate], weights: Sequence[float], done: Container[int]
) -> Iterator[FrameMasks]:
    """The masks of the objects on every frame that is not done, in order; each object is a candidate.

    Args:
        weights: factors for each object's scores, 0 to 1.
        done: 0-based frames to skip.
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
    """Finds candidates: a detector with SAM 2 (CandidateSearch), or SAM 3 on its own (Sam3Search)."""

    def find(self, clip: Clip, phrases: Sequence[str], progress: Progress | None = None) -> list[Candidate]:
        """Everything in the clip that matches one of the noun phrases; `progress` is called after every frame.

        Raises VideoError, InstructionError if a phrase is too long, or anything that `progress` raises.
        """
