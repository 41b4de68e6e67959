"""Shown frames: the frames of a clip that a person sees in the mask view.

The view shows single frames, and more than about sixty make its pages slow. They are chosen so that the masks change
about equally between two of them, and more densely where the engine is in doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from trajseg.tracks import rle as rle_codes
from trajseg.tracks.result import Result
from trajseg.tracks.track import MaskTrack

IDLE_WEIGHT = 0.02
"""Interest of a frame without change, so that a still object is shown occasionally."""

DOUBT_WEIGHT = 0.5
"""Interest of a frame with score 0; a mask that shares nothing with the previous one has 1."""

SMALLEST_STEP = 0.25
"""Total interest per shown frame; so a still object gets fewer frames than the limit allows."""


def key_frames(tracks: Result | Sequence[MaskTrack], limit: int = 60) -> list[int]:
    """0-based indices of the frames to show, sorted, including the first and the last.

    A clip of at most `limit` frames is shown completely. Otherwise the frames where an object appears or disappears
    have priority, then others up to `limit`.

    Args:
        tracks: a result, or tracks of one clip; without tracks the frames are evenly spaced.
        limit: maximum number of frames, at least 2.

    Raises:
        ValueError: `limit` is below 2, or there is neither a track nor a result with the number of frames.
    """
    if limit < 2:
        raise ValueError(f"at least the first and the last frame are shown, so limit must be 2 or more, got {limit}")
    count = tracks.frame_count if isinstance(tracks, Result) else max((len(track) for track in tracks), default=0)
    tracks = tracks.tracks if isinstance(tracks, Result) else tracks
    if count == 0:
        raise ValueError("without tracks the number of frames is not known; give a Result")
    if count <= limit:
        return list(range(count))
    if not tracks:
        return sorted({round(float(index)) for index in np.linspace(0, count - 1, limit)})
    interest = _interest(tracks, count)
    chosen = {0, count - 1}
    events = _events(tracks)
    # The most important ones, if there are more than the limit allows.
    events.sort(key=lambda index: -interest[index])
    chosen.update(events[: limit - len(chosen)])
    return sorted(chosen | _fill(np.cumsum(interest), chosen, limit - len(chosen)))


def _interest(tracks: Sequence[MaskTrack], count: int) -> np.ndarray:
    """Interest of each frame, [count]: change from the previous frame, plus doubt."""
    interest = np.full(count, IDLE_WEIGHT)
    for track in tracks:
        for before, after in pairwise(track.frames):
            interest[after.index] += 1.0 - rle_codes.iou(before.rle, after.rle)
            if after.rle is not None:
                # Squared, because a constant score of 0.9 is no reason for more frames.
                interest[after.index] += DOUBT_WEIGHT * (1.0 - after.score) ** 2
    return interest


def _events(tracks: Sequence[MaskTrack]) -> list[int]:
    """Frames on both sides of each appearance or disappearance of an object."""
    found: set[int] = set()
    for track in tracks:
        for before, after in pairwise(track.frames):
            if (before.rle is None) != (after.rle is None):
                found.update((before.index, after.index))
    return sorted(found)


def _fill(run: np.ndarray, chosen: set[int], room: int) -> set[int]:
    """Up to `room` more frames; repeatedly halves the interval with most interest.

    `run` [count] is the cumulative interest.
    """
    more: set[int] = set()
    intervals = list(pairwise(sorted(chosen)))
    while len(more) < room:
        start, end = max(
            (pair for pair in intervals if pair[1] - pair[0] > 1),
            key=lambda pair: run[pair[1]] - run[pair[0]],
            default=(0, 0),
        )
        if end == 0 or run[end] - run[start] < SMALLEST_STEP:
            break
        middle = int(np.searchsorted(run, (run[start] + run[end]) / 2))
        middle = min(max(middle, start + 1), end - 1)
        more.add(middle)
        intervals.remove((start, end))
        intervals += [(start, middle), (middle, end)]
    return more
