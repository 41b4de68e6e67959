"""Identity over time: which tracks show the same object, and to which of two tracks an object belongs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from trajseg.engines.grounded.candidates import Candidate, CandidateFrame
from trajseg.tracks import rle

SAME = 0.6
"""Two masks show the same object if their IoU is at least this."""
SHARE = 0.6
"""Share of the shorter track's frames on which both must show the same object to count as one."""


def merged(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, with each object only once.

    Two tracks that show the same object for most of the shorter one are merged; the frames of both are kept. If they
    coincide only for a while (one has switched to the other's object when look-alikes crossed), both remain, and the
    less certain one loses those frames.
    """
    tracks = sorted(candidates, key=lambda one: -len(one.shown) * one.score)
    kept: list[Candidate] = []
    for track in tracks:
        same = next((other for other in kept if _coincidence(track, other) >= SHARE), None)
        if same is None:
            kept.append(track)
        else:
            _take_in(same, track)
    for one, other in combinations(kept, 2):
        _part(one, other)
    return [track for track in kept if track.shown]


def _coincident(one: Candidate, other: Candidate) -> list[int]:
    return [
        index
        for index, (a, b) in enumerate(zip(one.frames, other.frames, strict=True))
        if a.rle is not None and b.rle is not None and rle.iou(a.rle, b.rle) >= SAME
    ]


def _coincidence(one: Candidate, other: Candidate) -> float:
    """Share of the shorter track on which both show the same object."""
    shorter = min(len(one.shown), len(other.shown))
    return len(_coincident(one, other)) / shorter if shorter else 0.0


def _take_in(kept: Candidate, gone: Candidate) -> None:
    """Adds the frames that only the other track has, and those on which only it was detected."""
    for index, frame in enumerate(gone.frames):
        own = kept.frames[index]
        if frame.rle is not None and (own.rle is None or (frame.seen and not own.seen)):
            kept.frames[index] = frame
    whole = kept.sightings + gone.sightings
    kept.score = (kept.score * kept.sightings + gone.score * gone.sightings) / whole
    kept.sightings, kept.start = whole, min(kept.start, gone.start)


def _part(one: Candidate, other: Candidate) -> None:
    for index in _coincident(one, other):
        a, b = one.frames[index], other.frames[index]
        weaker = other if (a.seen, a.score) >= (b.seen, b.score) else one
        weaker.frames[index] = CandidateFrame()
