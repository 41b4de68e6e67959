"""Correction from one painted frame, when leaving painted frames out cannot measure anything yet.

If the person touched up the prediction, the change is carried, and another frame is changed only if a second
propagator's mask agrees better with it than before. If the prediction showed the wrong object, or nothing, whole masks
are carried outwards until they match the prediction again. In doubt the prediction is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from trajseg.correction.changes import Change, carry, changed_alike
from trajseg.correction.joining import Return, kept_frames, outwards
from trajseg.correction.propagator import Drawn, Propagator
from trajseg.progress import Progress
from trajseg.tracks import MaskTrack, TrackFrame, rle
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import Clip

WRONG_THING = 0.3
"""Overlap, as a share of the smaller mask, below which the prediction showed another object than the person painted."""

SURE = 0.5
"""Score from which a carried part of a painted mask counts if another propagator is consulted as well."""

SURE_ALONE = 0.7
"""The same with only one propagator."""

SURE_MARKED = 0.8
"""The same if the mask was drawn from a mark: it says where the object is, not which pixels belong to it."""

SURE_WHOLE = 0.6
"""Score from which a carried whole mask counts, unless two propagators agree on it."""

SURE_WHOLE_MARKED = 0.7
"""The same if the mask was drawn from a mark, which is less exact than a painted one."""

AGREEING = 0.5
"""IoU of two propagators' masks from which they agree."""

FEWEST_PIXELS = 16
"""Pixels from which a carried mask may replace a larger predicted one: flow is unreliable for smaller masks."""

DOUBTFUL_FRAMES = 3
"""Stop carrying whole masks after this many consecutive frames without a mask that counts."""


def correct_others(
    clip: Clip,
    track: MaskTrack,
    key: int,
    mask: np.ndarray,
    propagators: Sequence[Propagator],
    marked: bool,
    progress: Progress | None = None,
) -> list[TrackFrame]:
    """The track's frames with frame `key` replaced and the others changed as far as the evidence supports it.

    Args:
        mask: bool [H, W], not empty.
        propagators: at least one; the first carries changes, the others are consulted.
        marked: whether the mask was drawn from a mark instead of by a person.
        progress: called with (frames done, frames in total) over the propagators' passes.
    """
    change = Change(track.mask(key, mask.shape), mask, marked)
    report = _Report(progress, len(clip) * len(propagators))
    if change.shared < WRONG_THING:
        frames = _whole(clip, track, key, change, propagators, report)
    else:
        frames = _alike(clip, track, key, change, propagators, report)
    frames[key] = TrackFrame(key, clip.frame_map.times[key], 1.0, rle.encode(mask))
    report.finish()
    return frames


def _alike(
    clip: Clip,
    track: MaskTrack,
    key: int,
    change: Change,
    propagators: Sequence[Propagator],
    report: _Report,
) -> list[TrackFrame]:
    """Frames with the person's change applied, where the first propagator is certain and no other one objects."""
    carrier, *others = propagators
    sure = SURE_MARKED if change.marked else SURE if others else SURE_ALONE
    changed: dict[int, np.ndarray] = {}
    for carried in carry(clip, key, change, carrier) if change.speaks else ():
        before = track.mask(carried.index, change.after.shape)
        after = changed_alike(before, change, carried, sure)
        if carried.index != key and not np.array_equal(before, after):
            changed[carried.index] = after
        report.step()
    for other in others if changed else ():
        for drawn in other.propagate(clip, {key: change.after}, sorted(changed)):
            before = track.mask(drawn.index, change.after.shape)
            if drawn.index in changed and not supported(changed[drawn.index], before, drawn):
                del changed[drawn.index]
            report.step()
    frames = kept_frames(track)
    for index, after in changed.items():
        code = rle.encode(after) if after.any() else None
        frames[index] = replace(frames[index], rle=code, provenance=carrier.name)
    return frames


def supported(after: np.ndarray, before: np.ndarray, drawn: Drawn) -> bool:
    """Whether another propagator's mask is at least as close to the changed mask as to the one before."""
    return region_similarity(after, drawn.mask) >= region_similarity(before, drawn.mask)


def _whole(
    clip: Clip, track: MaskTrack, key: int, change: Change, propagators: Sequence[Propagator], report: _Report
) -> list[TrackFrame]:
    """Frames around `key` with the best mask carried there, up to where the prediction is right again."""
    passes = {
        propagator.name: list(_counted(propagator.propagate(clip, {key: change.after}), report))
        for propagator in propagators
    }
    frames = kept_frames(track)
    # Where nothing was predicted at all there is nothing to protect: what is carried is better than nothing, but for
    # remnants of an object that is not there.
    protected = bool(track.present)
    sure = SURE_WHOLE_MARKED if change.marked else SURE_WHOLE
    for way in outwards(key, len(clip)):
        back, doubtful = Return(change.size), 0
        for index in way:
            before = track.mask(index, change.after.shape)
            drawn = {name: masks[index] for name, masks in passes.items()}
            if protected and back.reached(max(region_similarity(before, one.mask) for one in drawn.values())):
                break
            if before.any() and not change.before.any():
                # The object was missed on the painted frame, which says nothing about the other frames.
                continue
            name = max(drawn, key=lambda name: drawn[name].score)
            best = drawn[name]
            others = [one for other, one in drawn.items() if other != name]
            agreed = any(region_similarity(best.mask, one.mask) >= AGREEING for one in others)
            if not protected and not agreed and best.score < sure and is_leaving(best.mask, change.after):
                continue
            # Losing the object is how carrying fails: an empty mask is no reason to take a predicted one away.
            if is_lost(best.mask, before) or (protected and best.score < sure and not agreed):
                doubtful += 1
                if doubtful >= DOUBTFUL_FRAMES:
                    break
                continue
            doubtful = 0
            code = rle.encode(best.mask) if best.mask.any() else None
            frames[index] = replace(frames[index], score=best.score, rle=code, provenance=name)
    return frames


def is_lost(mask: np.ndarray, before: np.ndarray) -> bool:
    """Whether a carried mask, bool [H, W], has almost vanished although one was predicted."""
    return int(mask.sum()) < min(FEWEST_PIXELS, int(before.sum()))


def is_leaving(mask: np.ndarray, painted: np.ndarray) -> bool:
    """Whether a carried mask, bool [H, W], is what is left of an object at the edge of the picture.

    There flow keeps a remnant of an object that has left, or has not come yet.
    """
    edges = mask[0], mask[-1], mask[:, 0], mask[:, -1]
    return any(edge.any() for edge in edges) and int(mask.sum()) < int(painted.sum())


def _counted(drawn: Iterator[Drawn], report: _Report) -> Iterator[Drawn]:
    for one in drawn:
        report.step()
        yield one


class _Report:
    """Counts frames towards a total that may turn out too high."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def step(self) -> None:
        self._done += 1
        if self._progress:
            self._progress(self._done, self._total)

    def finish(self) -> None:
        if self._progress and self._done < self._total:
            self._progress(self._total, self._total)
