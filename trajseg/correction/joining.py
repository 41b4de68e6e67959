"""How far a correction reaches: carried masks end where the prediction agrees with them again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from trajseg.correction.propagator import Painted
from trajseg.tracks import MaskTrack, TrackFrame, rle

BACK_SHARE = 0.25
"""Relative to 1 - IoU between prediction and person at a painted frame: below this, a frame is already right."""

BACK_FRAMES = 2
"""Stop propagating after this many consecutive frames that already match the prediction."""


def outwards(key: int, count: int, stops: Collection[int] = ()) -> Iterator[range]:
    """The frames after `key` and those before it, each range leading away from it, up to the next of `stops`."""
    later = min((stop for stop in stops if stop > key), default=count)
    earlier = max((stop for stop in stops if stop < key), default=-1)
    yield range(key + 1, later)
    yield range(key - 1, earlier, -1)


class Return:
    """Detects when the prediction matches the carried mask again.

    Args:
        changed: 1 - IoU between prediction and person at the painted frame. The criterion is relative to it, so that a
            touch-up that is missing everywhere is carried everywhere.
    """

    def __init__(self, changed: float) -> None:
        self._most = changed * BACK_SHARE
        self._in_a_row = 0

    def reached(self, alike: float) -> bool:
        """Whether the prediction is right from this frame on; `alike` is its IoU with the carried mask there."""
        self._in_a_row = self._in_a_row + 1 if 1.0 - alike <= self._most else 0
        return self._in_a_row >= BACK_FRAMES


def kept_frames(track: MaskTrack) -> list[TrackFrame]:
    """The frames unchanged, each with its own provenance: refining changes the track's."""
    return [replace(frame, provenance=frame.provenance or track.provenance) for frame in track.frames]


def joined(before: Sequence[TrackFrame], after: Sequence[TrackFrame], painted: Painted) -> list[TrackFrame]:
    """The carried frames around each painted frame, up to where they match the prediction again.

    Args:
        before: as predicted.
        after: as carried from the painted frames.
        painted: at least one mask.
    """
    frames = list(before)
    for key, mask in painted.items():
        frames[key] = after[key]
        back_at = 1.0 - rle.iou(before[key].rle, rle.encode(mask) if mask.any() else None)
        for way in outwards(key, len(frames), painted):
            back = Return(back_at)
            for index in way:
                old, new = before[index].rle, after[index].rle
                if back.reached(rle.iou(old, new) if old and new else 0.0):
                    break
                frames[index] = after[index]
    return frames


def without(track: MaskTrack, removed: Collection[int], shown: Collection[int]) -> list[TrackFrame]:
    """The track without the frames that are nearer to one where it was removed than to one where it was kept."""
    frames = []
    for frame in track.frames:
        away = min((abs(frame.index - index) for index in removed), default=len(track))
        kept = min((abs(frame.index - index) for index in shown), default=len(track) + 1)
        gone = frame.index in removed or away < kept
        source = "person" if frame.index in removed else frame.provenance
        frames.append(replace(frame, rle=None, provenance=source) if gone else frame)
    return frames
