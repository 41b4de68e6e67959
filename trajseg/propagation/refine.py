"""Refining a track: what a person painted goes to all other frames, by whichever propagator does it best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from trajseg.engine import Progress
from trajseg.errors import InputError
from trajseg.metrics import region_similarity
from trajseg.propagation.propagator import Painted, Propagator, check_painted
from trajseg.review import Suggestion, suggest
from trajseg.tracks import MaskTrack, TrackFrame, rle
from trajseg.video import Clip

LEFT_OUT_MOST = 8
"""Painted frames that are left out in turn, spread evenly; more would cost time and hardly change the choice."""

PERSON = "person"
"""Provenance of a painted frame."""


@dataclass(frozen=True)
class Refinement:
    """A refined track and how it came about.

    Args:
        track: painted frames exactly as painted; each frame's provenance is "person" or the propagator's name.
        chosen: name of the propagator that drew it.
        left_out: by propagator and painted frame, J of what it draws there when that frame is not painted; empty
            when only one frame is painted.
        suggestions: frames that a person should look at next and why, most doubtful first.
        agreement: by frame, IoU of the passes from the painted frame before and from the one after.
    """

    track: MaskTrack
    chosen: str
    left_out: dict[str, dict[int, float]]
    suggestions: list[Suggestion]
    agreement: dict[int, float]

    @property
    def doubtful(self) -> list[int]:
        """Indices of the suggested frames, most doubtful first."""
        return [suggestion.index for suggestion in self.suggestions]


def refine(
    clip: Clip,
    track: MaskTrack,
    painted: Painted,
    propagators: Sequence[Propagator],
    progress: Progress | None = None,
) -> Refinement:
    """Carry the painted masks to all frames of the clip.

    Each propagator draws every painted frame from the other painted ones; the one with the highest mean J draws the
    track. With a single painted frame there is nothing to measure, and the first propagator draws it.

    Args:
        track: gives name, label, caption and instruction; its masks are not used.
        painted: at least one mask.
        propagators: at least one, the preferred one first.
        progress: called with (frames done, frames in all) over all runs; what it raises ends the run.

    Raises:
        InputError: nothing is painted, a mask does not fit the clip, or there is no propagator.
        VideoError: the video can no longer be read.
    """
    check_painted(clip, painted)
    if not propagators:
        raise InputError("There is no propagator to refine the track with.")
    tested = _spread(sorted(painted), LEFT_OUT_MOST) if len(painted) > 1 else []
    total = len(tested) * len(propagators) + len(clip)
    left_out: dict[str, dict[int, float]] = {}
    done = 0
    for propagator in propagators if tested else ():
        for index in tested:
            similarity = left_out_similarity(clip, painted, propagator, index)
            left_out.setdefault(propagator.name, {})[index] = similarity
            done += 1
            if progress:
                progress(done, total)
    best = max(propagators, key=lambda p: fmean(left_out[p.name].values())) if left_out else propagators[0]
    agreement: dict[int, float] = {}
    frames: list[TrackFrame] = []
    for drawn in best.propagate(clip, painted):
        if drawn.agreement is not None:
            agreement[drawn.index] = drawn.agreement
        code = rle.encode(drawn.mask) if drawn.mask.any() else None
        source = PERSON if drawn.index in painted else best.name
        frames.append(TrackFrame(drawn.index, clip.frame_map.times[drawn.index], drawn.score, code, source))
        if progress:
            progress(done + len(frames), total)
    shown = [frame.score for frame in frames if frame.rle is not None]
    refined = replace(track, frames=frames, score=fmean(shown) if shown else 0.0, provenance=best.name)
    return Refinement(refined, best.name, left_out, suggest(refined, painted=painted, agreement=agreement), agreement)


def left_out_similarity(clip: Clip, painted: Painted, propagator: Propagator, index: int) -> float:
    """J of what a propagator draws in the painted frame `index` from the other painted frames."""
    others = {other: mask for other, mask in painted.items() if other != index}
    [drawn] = propagator.propagate(clip, others, frames=[index])
    return region_similarity(drawn.mask, painted[index])


def _spread(keys: list[int], most: int) -> list[int]:
    """At most `most` of the keys, evenly chosen."""
    return keys if len(keys) <= most else [keys[round(i)] for i in np.linspace(0, len(keys) - 1, most)]
