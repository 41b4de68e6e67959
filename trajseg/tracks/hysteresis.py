"""Hysteresis: a track starts above one object score and continues above a lower one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from trajseg.tracks.track import TrackFrame


def empty_unsure_runs(frames: list[TrackFrame], presence: Sequence[float], start: float) -> None:
    """Empties, in place, each run of consecutive frames with a mask in which the presence never exceeds `start`.

    Args:
        frames: of one track, in order; emptied ones get the score 0.
        presence: log-odds that the object is present, one per frame.
        start: log-odds above which a run may start.
    """
    for shown, numbers in groupby(range(len(frames)), lambda number: frames[number].rle is not None):
        run = list(numbers)
        if shown and max(presence[number] for number in run) <= start:
            for number in run:
                frames[number].score, frames[number].rle = 0.0, None
