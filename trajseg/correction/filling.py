"""Fills frames on which a person says that the object is present, but not where, by extending a range on the timeline.

The masks come from the nearest frames with a mask on either side.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from trajseg.correction.joining import kept_frames
from trajseg.correction.one_frame import is_lost
from trajseg.correction.propagator import Drawn, Painted, Propagator
from trajseg.progress import Progress
from trajseg.tracks import MaskTrack, rle
from trajseg.video import Clip

NEAR = 5
"""Number of frames with a mask, nearest to the gap, from which the source is chosen."""

SOUND = 0.7
"""Minimum area of the source mask, as a fraction of the largest nearby one: a track often ends in an incomplete
mask."""


def filled_in(
    clip: Clip,
    track: MaskTrack,
    wanted: Collection[int],
    propagators: Sequence[Propagator],
    progress: Progress | None = None,
) -> MaskTrack:
    """The track with a mask on each wanted frame (0-based) that has none, if one can be propagated there.

    Each frame takes the more certain propagator. A frame in which no propagator finds the object stays without a mask,
    and so do all frames if the track has no mask at all.

    Args:
        track: one entry per frame of the clip.
        propagators: at least one, the preferred one first.
        progress: called with (frames done, frames in total) over all propagators.

    Raises:
        VideoError: the video can no longer be read.
    """
    runs = _runs(sorted(index for index in set(wanted) if 0 <= index < len(clip) and track.frames[index].rle is None))
    total, done = sum(map(len, runs)) * len(propagators), 0
    frames = kept_frames(track)
    for run in runs:
        painted = _beside(track, run, (clip.height, clip.width))
        best: dict[int, tuple[Drawn, str]] = {}
        for propagator in propagators if painted else ():
            smallest = min(painted.values(), key=np.count_nonzero)
            for drawn in propagator.propagate(clip, painted, run):
                held = best.get(drawn.index)
                if not is_lost(drawn.mask, smallest) and (held is None or drawn.score > held[0].score):
                    best[drawn.index] = (drawn, propagator.name)
                done += 1
                if progress:
                    progress(done, total)
        for index, (drawn, name) in best.items():
            frames[index] = replace(frames[index], score=drawn.score, rle=rle.encode(drawn.mask), provenance=name)
    if progress and done < total:
        progress(total, total)
    shown = [frame.score for frame in frames if frame.rle is not None]
    return replace(track, frames=frames, score=fmean(shown) if shown else 0.0)


def _runs(indices: Sequence[int]) -> list[list[int]]:
    """Groups of consecutive indices."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs


def _beside(track: MaskTrack, run: Sequence[int], size: tuple[int, int]) -> Painted:
    """The source masks on either side of a run of frames; empty if the track has no mask."""
    before = [index for index in track.present if index < run[0]][-NEAR:][::-1]
    after = [index for index in track.present if index > run[-1]][:NEAR]
    painted: Painted = {}
    for nearest in (before, after):
        areas = {index: int(track.mask(index, size).sum()) for index in nearest}
        chosen = next((index for index, area in areas.items() if area >= SOUND * max(areas.values())), None)
        if chosen is not None:
            painted[chosen] = track.mask(chosen, size)
    return painted
