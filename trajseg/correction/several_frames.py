"""Correction from several painted frames, which also provide evidence about each other.

Each painted frame is withheld in turn and drawn from the others. This measures how good each propagator's whole masks
are, and whether carrying the changes helps. A frame gets a whole mask if that is expected to be better than its present
mask, limited to what the painted frames around it support. Where those were only touched up, the erased and added parts
are carried as after one painted frame (see one_frame). In doubt the prediction is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from trajseg.correction.changes import Change, carry, changed_alike, speaks_for
from trajseg.correction.joining import joined, kept_frames
from trajseg.correction.one_frame import (
    AGREEING,
    SURE,
    SURE_ALONE,
    SURE_MARKED,
    SURE_WHOLE,
    WRONG_THING,
    is_lost,
    supported,
)
from trajseg.correction.propagator import Drawn, Painted, Propagator
from trajseg.tracks import MaskTrack, TrackFrame, rle
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import Clip

LEFT_OUT_MOST = 8
"""Most painted frames withheld in turn, evenly spaced; more would cost time and hardly change the choice."""

FADING = 0.5
"""J that a mask is assumed to lose when carried over a whole clip, before anything is measured."""

OPPOSITION = 0.5
"""Share of its value that a frame loses if a certain carried mask has nothing in common with it."""

ENOUGH = 3
"""Painted frames from which withholding alone decides about whole masks; two are too few."""

DRIFT = 0.5
"""Power of the distance with which a drifting propagator's errors are assumed to grow where a prediction is at stake:
small errors accumulate like a random walk's."""


@dataclass(frozen=True)
class Several:
    """The result for several painted frames; the fields are those of a Refinement."""

    frames: list[TrackFrame]
    chosen: str
    left_out: dict[str, dict[int, float]] = field(default_factory=dict)
    agreement: dict[int, float] = field(default_factory=dict)


def correct_between(
    clip: Clip,
    track: MaskTrack,
    painted: Painted,
    propagators: Sequence[Propagator],
    marked: Collection[int],
    progress: Callable[[int, int], None] | None = None,
) -> Several:
    """The track's frames with the painted ones replaced, and the others changed as far as these support it.

    Args:
        painted: at least one mask; empty ones say where the object is not.
        propagators: at least one; the first carries changes, the one that best redraws withheld frames carries whole
            masks.
        marked: painted frames whose mask was drawn from a mark: it says where the object is but not which pixels belong
            to it, so no whole mask is carried from a mark that only touches up the prediction.
        progress: called with (frames done, frames in total) over all runs.
    """
    tested = _spread(sorted(painted), LEFT_OUT_MOST) if len(painted) > 1 else []
    evidence = _Evidence(track, painted, marked)
    carried = [key for key in evidence.keys if evidence.carries(key)]
    total = len(tested) * len(propagators) + len(carried) + len(clip)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    left_out: dict[str, dict[int, float]] = {}
    for propagator in propagators if tested else ():
        for index in tested:
            left_out.setdefault(propagator.name, {})[index] = left_out_similarity(clip, painted, propagator, index)
            step()
    worths = {p.name: carried_worth(p, painted, left_out.get(p.name, {}), len(clip)) for p in propagators}
    best = max(propagators, key=lambda p: worths[p.name].mean()) if left_out else propagators[0]
    others = [one for one in propagators if one is not best]
    alike = _changed(clip, evidence, carried, propagators, step)
    worth = evidence.worth(alike)
    drift = 1.0 if evidence.enough else DRIFT
    expected = carried_worth(best, painted, left_out.get(best.name, {}), len(clip), drift)

    kept = kept_frames(track)
    frames = list(kept)
    drawn = {one.index: one for one in best.propagate(clip, painted)}
    wanted = [i for i in drawn if i not in painted and evidence.asks_for_whole(i, drawn[i], worth, expected)]
    unsure = [i for i in wanted if not evidence.sure(i, drawn[i])]
    for other in others if unsure else ():
        for one in other.propagate(clip, painted, unsure):
            if region_similarity(one.mask, drawn[one.index].mask) >= AGREEING:
                unsure.remove(one.index)
    agreement: dict[int, float] = {}
    for index, one in drawn.items():
        if index in painted or index in set(wanted) - set(unsure):
            code = rle.encode(one.mask) if one.mask.any() else None
            frames[index] = TrackFrame(index, clip.frame_map.times[index], one.score, code, best.name)
        step()
    frames = joined(kept, frames, painted) if any(mask.any() for mask in painted.values()) else frames
    changed = {i: mask for i, mask in alike.items() if i not in painted and frames[i] is kept[i]}
    changed = {i: mask for i, mask in changed.items() if evidence.helps(i)}
    for other in propagators[1:] if changed else ():
        for one in other.propagate(clip, painted, sorted(changed)):
            if one.index in changed and not supported(changed[one.index], evidence.mask(one.index), one):
                del changed[one.index]
    for index, mask in changed.items():
        code = rle.encode(mask) if mask.any() else None
        frames[index] = replace(frames[index], rle=code, provenance=propagators[0].name)
    for index, frame in enumerate(frames):
        if frame.provenance == best.name and drawn[index].agreement is not None:
            agreement[index] = float(drawn[index].agreement or 0.0)
    return Several(frames, best.name, left_out, agreement)


class _Evidence:
    """What the painted frames say about the prediction on the frames around them."""

    def __init__(self, track: MaskTrack, painted: Painted, marked: Collection[int]) -> None:
        self._track, self._marked = track, marked
        self._size = next(iter(painted.values())).shape
        self.keys = sorted(painted)
        self.changes = {key: Change(self.mask(key), painted[key], key in marked) for key in self.keys}
        self.gains = dict.fromkeys(self.keys, 0.0)
        self.protected = bool(track.present)
        self.shown = any(mask.any() for mask in painted.values())
        self.enough = len(painted) >= ENOUGH

    def mask(self, index: int) -> np.ndarray:
        """The predicted mask, bool [H, W]."""
        return self._track.mask(index, self._size)

    def touched_up(self, key: int) -> bool:
        """Whether the prediction showed the object that was painted there."""
        return self.changes[key].shared >= WRONG_THING

    def carries(self, key: int) -> bool:
        """Whether the change there is looked for on other frames: a touch-up, or a removed mask."""
        change = self.changes[key]
        taken_away = self.shown and change.before.any() and not change.after.any()
        return bool(taken_away or (self.touched_up(key) and change.size > 0 and change.speaks))

    def reaches(self, key: int, index: int) -> bool:
        """Whether a change may be looked for on a frame.

        Between a frame without the object and one with it, propagators decide where the object disappears; a removed
        mask is looked for only on the other side.
        """
        if self.changes[key].after.any() or index in self.changes:
            return True
        return not any(self.changes[other].after.any() for other in self.around(index))

    def reach(self, key: int) -> range:
        """The frames as far as the painted ones on either side, or beyond those that also say "not here"."""
        more = [other for other in self.keys if self.changes[other].after.any() or self.changes[key].after.any()]
        low = max((other for other in more if other < key), default=0)
        return range(low, min((other for other in more if other > key), default=len(self._track) - 1) + 1)

    def gone(self, index: int) -> bool:
        """Whether painted frames confirm that the object has left: one on either side, or two in a row without it."""
        before = [key for key in self.keys if key < index][-2:]
        after = [key for key in self.keys if key > index][:2]
        if before and after:
            return True
        return len(before + after) == 2 and not any(self.changes[key].after.any() for key in before + after)

    def around(self, index: int) -> list[int]:
        """The painted frames next to a frame, at most one on either side; the nearer one first."""
        before = [key for key in self.keys if key < index][-1:]
        after = [key for key in self.keys if key > index][:1]
        return sorted((*before, *after), key=lambda key: abs(key - index))

    def untested(self, index: int) -> bool:
        """Whether a frame is farther from two painted ones than they are apart: withholding one says nothing there."""
        return len(self.keys) == 2 and abs(index - self.around(index)[0]) > self.keys[1] - self.keys[0]

    def worth(self, alike: dict[int, np.ndarray]) -> np.ndarray:
        """Expected J of each frame without whole masks, float64 [N], interpolated between the painted ones.

        There it is the prediction's J, or what it would have been after the changes from the other painted frames.
        """
        for key in self.keys:
            change = self.changes[key]
            if key in alike and change.after.any():
                self.gains[key] = region_similarity(alike[key], change.after) - (1.0 - change.size)
        figures = [1.0 - self.changes[key].size + max(self.gains[key], 0.0) for key in self.keys]
        return np.interp(np.arange(len(self._track)), self.keys, figures)

    def helps(self, index: int) -> bool:
        """Whether carrying the changes did no harm on the painted frames next to this one."""
        return float(np.interp(index, self.keys, [self.gains[key] for key in self.keys])) >= 0.0

    def asks_for_whole(self, index: int, drawn: Drawn, worth: np.ndarray, carried: np.ndarray) -> bool:
        """Whether a whole mask may replace a frame's present one, as far as the painted frames support it."""
        mask, around = self.mask(index), self.around(index)
        near = self.changes[around[0]]
        touched = [self.touched_up(key) for key in around]
        if self.protected and any(key in self._marked for key in around) and all(touched):
            return False
        if not self.enough:
            if mask.any() and not near.before.any() and near.after.any():
                # The object was missed where it was painted; that says nothing about what was found elsewhere.
                return False
            if is_lost(drawn.mask, mask) and (near.after.any() or not self.gone(index)):
                # Propagation typically fails by losing the object; and beyond one frame without it, it may come back.
                return False
        bounded = all(touched) and not self.enough
        if bounded and self.untested(index):
            return False
        # Evidence from the pictures against a frame's present mask counts even where the painted frames support it;
        # between two that were only touched up, the frame shows the right object.
        opposed = 0.0 if bounded else OPPOSITION * drawn.score * (1 - region_similarity(mask, drawn.mask))
        if worth[index] * (1 - opposed) > carried[index]:
            return False
        return not bounded or speaks_for(max(self.changes[key].size for key in around), mask, drawn.mask)

    def sure(self, index: int, drawn: Drawn) -> bool:
        """Whether a whole mask needs no agreement from another propagator."""
        if self.enough or not self.protected or drawn.score >= SURE_WHOLE or (drawn.agreement or 0.0) >= AGREEING:
            return True
        around = self.around(index)
        if not drawn.mask.any() and not self.changes[around[0]].after.any():
            return True
        return len(around) == 2 and all(self.changes[key].shared < WRONG_THING for key in around)


def _changed(
    clip: Clip,
    evidence: _Evidence,
    carried: Sequence[int],
    propagators: Sequence[Propagator],
    step: Callable[[], None],
) -> dict[int, np.ndarray]:
    """Frames with the changes of the painted ones next to them applied, bool [H, W]; the nearer change first.

    Includes painted frames as they would be if only their neighbours had been painted.
    """
    by_frame: dict[int, list[int]] = {}
    parts = {}
    for key in carried:
        for one in carry(clip, key, evidence.changes[key], propagators[0], evidence.reach(key)):
            if one.index != key and evidence.reaches(key, one.index):
                parts[key, one.index] = one
        step()
    for key, index in sorted(parts, key=lambda place: abs(place[0] - place[1])):
        by_frame.setdefault(index, []).append(key)
    alike = {}
    for index, own in by_frame.items():
        mask = before = evidence.mask(index)
        for key in own:
            change = evidence.changes[key]
            sure = SURE_MARKED if change.marked else SURE if len(propagators) > 1 else SURE_ALONE
            mask = changed_alike(mask, change, parts[key, index], sure)
        if not np.array_equal(mask, before) and speaks_for(
            max(evidence.changes[key].size for key in own), before, mask
        ):
            alike[index] = mask
    return alike


def carried_worth(
    propagator: Propagator, painted: Painted, left_out: dict[int, float], count: int, drift: float = 1.0
) -> np.ndarray:
    """Expected J of each of `count` frames if the propagator draws it, float64 [N]; 1 on a painted frame.

    The results of withholding painted frames are interpolated between them. A withheld frame is farther from the
    others than any frame to be drawn, so a drifting propagator's error is scaled down in proportion.

    Args:
        drift: power of the distance with which such errors grow.
    """
    index, keys = np.arange(count), np.array(sorted(painted))
    if not any(mask.any() for mask in painted.values()):
        # An empty painted mask says where the object is not, which says nothing about other frames.
        return np.full(count, -1.0)
    far = np.abs(index[:, None] - keys[None])
    distance = far.min(axis=1)
    if not left_out:
        return np.maximum(1.0 - FADING / count * distance, 0.0)
    measured = np.array(sorted(left_out))
    lost = np.array([1.0 - left_out[key] for key in measured])
    if propagator.drifts:
        at_one = lost / np.sort(far[measured])[:, 1] ** drift
        return np.maximum(1.0 - np.interp(index, measured, at_one) * distance**drift, 0.0)
    return 1.0 - np.interp(index, measured, lost) * (distance > 0)


def left_out_similarity(clip: Clip, painted: Painted, propagator: Propagator, index: int) -> float:
    """J of what a propagator draws on the painted frame `index` from the other painted frames."""
    others = {other: mask for other, mask in painted.items() if other != index}
    [drawn] = propagator.propagate(clip, others, frames=[index])
    return region_similarity(drawn.mask, painted[index])


def _spread(keys: list[int], most: int) -> list[int]:
    """At most `most` of the keys, evenly chosen."""
    return keys if len(keys) <= most else [keys[round(i)] for i in np.linspace(0, len(keys) - 1, most)]
