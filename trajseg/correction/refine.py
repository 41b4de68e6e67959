"""Refining a track: propagates what a person painted to all other frames, with the best propagator for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from trajseg.correction.one_frame import correct_others
from trajseg.correction.propagator import Painted, Propagator, check_painted
from trajseg.correction.several_frames import correct_between
from trajseg.errors import InputError
from trajseg.progress import Progress
from trajseg.tracks import MaskTrack, TrackFrame
from trajseg.video import Clip

PERSON = "person"
"""Provenance of a painted frame."""


@dataclass(frozen=True)
class Refinement:
    """A refined track and how it was made.

    Args:
        track: painted frames exactly as painted; each frame's provenance is "person", the propagator's name or, if the
            frame was kept, its previous one.
        chosen: name of the propagator that drew the frames that were not kept; with one painted frame, of the one that
            drew most of them.
        left_out: by propagator and painted frame: J of its mask there if that frame is withheld; empty if only one
            frame is painted.
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
    """Propagates the painted masks to the other frames of the clip, as far as the evidence supports it.

    With one painted frame, the person's change is carried (see one_frame), and in doubt the prediction is kept. With
    more of them (see several_frames), each propagator draws every painted frame from the others, and the one with the
    best expected result over all frames draws whole masks (decision 98).

    The painted frames also show how good the corrected track was. A frame keeps its mask if, judged by the painted
    frames around it, that is probably better than the carried one: correcting one bad frame of a good track leaves the
    good frames alone, and a track of the wrong object is replaced entirely.

    Args:
        track: the corrected track, one entry per frame of the clip.
        painted: at least one mask.
        propagators: at least one, in order of preference.
        progress: called with (frames done, frames in total) over all runs; an exception from it ends the run.
        marked: painted frames whose mask was drawn from a mark; their outline is trusted less.

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
    several = correct_between(clip, track, painted, propagators, marked, progress)
    for key in painted:
        several.frames[key].provenance = PERSON
    return Refinement(_with(track, several.frames, several.chosen), several.chosen, several.left_out, several.agreement)


def _with(track: MaskTrack, frames: list[TrackFrame], source: str) -> MaskTrack:
    """The track with other frames, and their score."""
    shown = [frame.score for frame in frames if frame.rle is not None]
    return replace(track, frames=frames, score=fmean(shown) if shown else 0.0, provenance=source)
