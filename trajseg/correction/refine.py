"""Refining a track: what a person painted goes to all other frames, by whichever propagator does it best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from trajseg.correction.joining import joined, kept_frames
from trajseg.correction.one_frame import correct_others
from trajseg.correction.propagator import Painted, Propagator, check_painted
from trajseg.errors import InputError
from trajseg.progress import Progress
from trajseg.tracks import MaskTrack, TrackFrame, rle
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import Clip

LEFT_OUT_MOST = 8
"""Painted frames that are left out in turn, spread evenly; more would cost time and hardly change the choice."""

FADING = 0.5
"""J that a mask is taken to lose when it is carried over a whole clip, while nothing has been measured."""

OPPOSITION = 0.5
"""Share of its worth that a frame loses when what is carried there is sure and has nothing in common with it."""

PERSON = "person"
"""Provenance of a painted frame."""


@dataclass(frozen=True)
class Refinement:
    """A refined track and how it came about.

    Args:
        track: painted frames exactly as painted; each frame's provenance is "person", the propagator's name, or, where
            the frame was kept, what it was before.
        chosen: name of the propagator that drew the frames that were not kept; with one painted frame, of the one that
            drew most of them.
        left_out: by propagator and painted frame, J of what it draws there when that frame is not painted; empty
            when only one frame is painted.
        agreement: by frame, IoU of the passes from the painted frame before and from the one after.
    """

    track: MaskTrack
    chosen: str
    left_out: dict[str, dict[int, float]]
    agreement: dict[int, float]


def refine(
    clip: Clip,
    track: MaskTrack,
    painted: Painted,
    propagators: Sequence[Propagator],
    progress: Progress | None = None,
    marked: Collection[int] = (),
) -> Refinement:
    """Carry the painted masks to the other frames of the clip, as far as they speak for it.

    With one painted frame what the person changed is carried (see one_frame), and in doubt the prediction stays. With
    more of them each propagator draws every painted frame from the other painted ones, and the one of which most is to
    be expected on all frames draws the track (decision 98).

    The painted frames also tell how good the track was that they correct. A frame keeps its mask where, judged by the
    painted frames around it, that is likely better than what is carried there: correcting one bad frame of a good
    track leaves the good ones alone, and a track of the wrong object goes altogether.

    Args:
        track: what is corrected, one entry for each frame of the clip.
        painted: at least one mask.
        propagators: at least one, the preferred one first.
        progress: called with (frames done, frames in all) over all runs; what it raises ends the run.
        marked: painted frames whose mask was drawn from a mark; their outline is believed less.

    Raises:
        InputError: nothing is painted, a mask does not fit the clip, or there is no propagator.
        VideoError: the video can no longer be read.
    """
    check_painted(clip, painted)
    if not propagators:
        raise InputError("There is no propagator to refine the track with.", "Name one or more, such as 'flow'.")
    (key, mask), *more = painted.items()
    if not more and mask.any():
        corrected = correct_others(clip, track, key, mask, propagators, key in marked, progress)
        names = Counter(frame.provenance for frame in corrected if frame.provenance in {p.name for p in propagators})
        corrected[key].provenance = PERSON
        chosen = names.most_common(1)[0][0] if names else propagators[0].name
        return Refinement(_with(track, corrected, chosen), chosen, {}, {})
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
    carried = {p.name: _carried_worth(p, painted, left_out.get(p.name, {}), len(clip)) for p in propagators}
    best = max(propagators, key=lambda p: carried[p.name].mean()) if left_out else propagators[0]
    carried_worth = carried[best.name]
    kept_worth = _kept_worth(track, painted, (clip.height, clip.width))
    kept = kept_frames(track)
    agreement: dict[int, float] = {}
    frames: list[TrackFrame] = []
    for drawn in best.propagate(clip, painted):
        index, before = drawn.index, kept[drawn.index]
        code = rle.encode(drawn.mask) if drawn.mask.any() else None
        # What the pictures say against a frame as it was counts even where the painted frames speak for it.
        opposed = OPPOSITION * drawn.score * (1 - rle.iou(before.rle, code))
        if index not in painted and kept_worth[index] * (1 - opposed) > carried_worth[index]:
            frames.append(before)
        else:
            if drawn.agreement is not None:
                agreement[index] = drawn.agreement
            source = PERSON if index in painted else best.name
            frames.append(TrackFrame(index, clip.frame_map.times[index], drawn.score, code, source))
        if progress:
            progress(done + len(frames), total)
    frames = joined(kept, frames, painted) if any(mask.any() for mask in painted.values()) else frames
    return Refinement(_with(track, frames, best.name), best.name, left_out, agreement)


def _with(track: MaskTrack, frames: list[TrackFrame], source: str) -> MaskTrack:
    """The track with other frames, and the score that these have."""
    shown = [frame.score for frame in frames if frame.rle is not None]
    return replace(track, frames=frames, score=fmean(shown) if shown else 0.0, provenance=source)


def _kept_worth(track: MaskTrack, painted: Painted, size: tuple[int, int]) -> np.ndarray:
    """J to be expected of each frame [N] as it was: what it had on the painted ones, interpolated between them."""
    keys = sorted(painted)
    before = [region_similarity(track.mask(key, size), painted[key]) for key in keys]
    return np.interp(np.arange(len(track)), keys, before)


def _carried_worth(propagator: Propagator, painted: Painted, left_out: dict[int, float], count: int) -> np.ndarray:
    """J to be expected of each of `count` frames where the propagator draws it, float64 [N]; 1 on a painted frame.

    What leaving painted frames out has shown is interpolated between them. A frame that is left out lies farther from
    the others than any that is to be drawn, so that the error of a propagator that drifts is taken in proportion.
    """
    index, keys = np.arange(count), np.array(sorted(painted))
    if not any(mask.any() for mask in painted.values()):
        # It was said where the object is not, which says nothing of other frames.
        return np.full(count, -1.0)
    far = np.abs(index[:, None] - keys[None])
    distance = far.min(axis=1)
    if not left_out:
        return np.maximum(1.0 - FADING / count * distance, 0.0)
    measured = np.array(sorted(left_out))
    lost = np.array([1.0 - left_out[key] for key in measured])
    if propagator.drifts:
        return np.maximum(1.0 - np.interp(index, measured, lost / np.sort(far[measured])[:, 1]) * distance, 0.0)
    return 1.0 - np.interp(index, measured, lost) * (distance > 0)


def left_out_similarity(clip: Clip, painted: Painted, propagator: Propagator, index: int) -> float:
    """J of what a propagator draws in the painted frame `index` from the other painted frames."""
    others = {other: mask for other, mask in painted.items() if other != index}
    [drawn] = propagator.propagate(clip, others, frames=[index])
    return region_similarity(drawn.mask, painted[index])


def _spread(keys: list[int], most: int) -> list[int]:
    """At most `most` of the keys, evenly chosen."""
    return keys if len(keys) <= most else [keys[round(i)] for i in np.linspace(0, len(keys) - 1, most)]
