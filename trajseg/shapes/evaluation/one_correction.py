"""Effect of one correction on the unpainted frames: a simulated person changes one or two frames of a track.

There are four kinds of correction, each on the frames of a clip that need it most: a blob is erased, a missing part is
added, the whole mask is redrawn, or, in the box view, a box is moved to the object. If a prediction has no such error,
one is added to an interval of it, because larger models on real clips make them. J is measured per frame, before and
after, on the unpainted frames.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, get_args

import cv2
import numpy as np

from trajseg.correction import Painted, Propagator, refine
from trajseg.correction.marking import Draw, mask_of
from trajseg.engines.capabilities import marker
from trajseg.evaluation.answers import masks_of
from trajseg.shapes.evaluation.review import StartTrack, start_of
from trajseg.shapes.world.scenes import Split, sample_scene
from trajseg.tracks import MaskTrack, TrackFrame, rle
from trajseg.tracks.mark import Mark
from trajseg.tracks.region_similarity import region_similarity

if TYPE_CHECKING:
    from trajseg.engines.base import Engine

Kind = Literal["erase", "add", "redraw", "box"]
KINDS: tuple[Kind, ...] = get_args(Kind)

NOTICED = 0.08
"""Smallest blob or missing part that a person would correct, as a fraction of the object's area."""

STRETCH = 0.5
"""Length of the interval in which an error is added to a prediction without one, as a fraction of the clip."""

APART = 0.2
"""Minimum distance of two painted frames, as a fraction of the clip."""


@dataclass(frozen=True)
class Correction:
    """A person's change to a track before it is submitted.

    Args:
        kind: what the person does.
        track: the track to correct: the prediction, or the prediction with an added error.
        painted: the corrected masks by frame.
    """

    kind: Kind
    track: MaskTrack
    painted: Painted


@dataclass(frozen=True)
class CorrectionResult:
    """Result of one correction: J of each frame before and after; `painted` are the corrected frames."""

    seed: int
    instruction: str
    kind: Kind
    painted: list[int]
    before: list[float]
    after: list[float]
    sources: list[str]

    @property
    def change(self) -> float:
        """Change of the mean J of the unpainted frames."""
        others = [i for i in range(len(self.before)) if i not in self.painted]
        return fmean(self.after[i] - self.before[i] for i in others) if others else 0.0

    def to_json(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self) | {"change": self.change}


def corrections(start: StartTrack, draws: Sequence[Draw], frames: int = 1) -> Iterator[Correction]:
    """The corrections of one clip, one of each kind that applies.

    Args:
        draws: functions from a mark to a mask; empty if the engine has none.
        frames: number of corrected frames; a kind for which a clip has fewer is skipped.
    """
    predicted, truth = masks_of(start.track, start.truth.shape), start.truth
    if not truth.any():
        return
    worst = _spaced(_worst(predicted, truth), len(truth), frames)
    predicted_with = predicted
    blobs = _parts(predicted & ~truth, truth)
    if not blobs:
        predicted_with = predicted | _blob(start)
        blobs = _parts(predicted_with & ~truth, truth)
    chosen = _spaced(list(blobs), len(truth), frames)
    if len(chosen) == frames:
        painted = {index: predicted_with[index] & ~blobs[index] for index in chosen}
        yield Correction("erase", _with(start.track, predicted_with), painted)
    predicted_with = predicted
    gaps = _parts(truth & ~predicted, truth, predicted)
    if not gaps:
        predicted_with = _cut(predicted)
        gaps = _parts(truth & ~predicted_with, truth, predicted_with)
    chosen = _spaced(list(gaps), len(truth), frames)
    if len(chosen) == frames:
        painted = {index: predicted_with[index] | gaps[index] for index in chosen}
        yield Correction("add", _with(start.track, predicted_with), painted)
    if len(worst) < frames:
        return
    yield Correction("redraw", start.track, {index: truth[index] for index in worst})
    boxes = {index: cv2.boundingRect(truth[index].astype(np.uint8)) for index in worst}
    marks = [Mark(index, (float(x), float(y), float(w), float(h))) for index, (x, y, w, h) in boxes.items()]
    yield Correction("box", start.track, {m.index: mask_of(m, start.clip, start.track, {}, draws) for m in marks})


def _worst(predicted: np.ndarray, truth: np.ndarray) -> list[int]:
    """The frames that show the object, lowest J first; both masks bool [N, H, W]."""
    shown = [i for i, mask in enumerate(truth) if mask.any()]
    return sorted(shown, key=lambda i: region_similarity(predicted[i], truth[i]))


def _spaced(indices: Sequence[int], frames: int, most: int) -> list[int]:
    """The first `most` of the indices that are APART from each other, in time order."""
    chosen: list[int] = []
    for index in indices:
        if len(chosen) < most and all(abs(index - other) >= APART * frames for other in chosen):
            chosen.append(index)
    return sorted(chosen)


def _parts(wrong: np.ndarray, truth: np.ndarray, beside: np.ndarray | None = None) -> dict[int, np.ndarray]:
    """The largest connected part of `wrong` by frame, if large enough to be NOTICED; the largest of all comes first.

    Args:
        wrong, truth: bool [N, H, W].
        beside: bool [N, H, W]; only frames where it has a mask count; None for all.
    """
    parts: list[tuple[int, int, np.ndarray]] = []
    for index, (mask, object_mask) in enumerate(zip(wrong, truth, strict=True)):
        if not object_mask.any() or (beside is not None and not beside[index].any()):
            continue
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        if count < 2:
            continue
        part = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
        area = int(stats[part, cv2.CC_STAT_AREA])
        if area >= NOTICED * object_mask.sum():
            parts.append((area, index, labels == part))
    return {index: part for _, index, part in sorted(parts, key=lambda found: (-found[0], found[1]))}


def _stretch(frames: int, seed: int) -> slice:
    """An interval of a clip's frames, chosen by the clip's seed."""
    length = max(2, round(STRETCH * frames))
    start = seed * 7 % (frames - length + 1) if frames > length else 0
    return slice(start, start + length)


def _blob(start: StartTrack) -> np.ndarray:
    """A blob in an interval of the clip, bool [N, H, W]: another object if one is visible there, else background."""
    frames, height, width = start.truth.shape
    area = start.truth.sum(axis=(1, 2)).max()
    side = max(3, round(0.6 * float(np.sqrt(area))))
    stretch = _stretch(frames, start.scene.seed)
    out = np.zeros_like(start.truth)
    others = (start.ids > 0) & ~start.truth
    seen = [i for i in range(frames)[stretch] if others[i].sum() >= area / 4]
    y, x = start.scene.seed * 13 % height, start.scene.seed * 29 % width
    for index in range(frames)[stretch]:
        out[index, max(0, y - side // 2) : y + side // 2 + 1, max(0, x - side // 2) : x + side // 2 + 1] = True
        if seen:
            values, counts = np.unique(start.ids[seen[0]][others[seen[0]]], return_counts=True)
            out[index] = start.ids[index] == values[np.argmax(counts)]
    return out & ~start.truth


def _cut(predicted: np.ndarray) -> np.ndarray:
    """Masks bool [N, H, W] without their lower two fifths in an interval of the clip."""
    out = predicted.copy()
    for index in range(len(out))[_stretch(len(out), int(predicted.sum()))]:
        _, y, _, height = cv2.boundingRect(out[index].astype(np.uint8))
        out[index, y + round(0.6 * height) :] = False
    return out


def _with(track: MaskTrack, masks: np.ndarray) -> MaskTrack:
    """The track with other masks, bool [N, H, W]; its scores stay."""
    frames: list[TrackFrame] = [
        replace(frame, rle=rle.encode(mask) if mask.any() else None)
        for frame, mask in zip(track.frames, masks, strict=True)
    ]
    return replace(track, frames=frames)


def corrected(start: StartTrack, correction: Correction, propagators: Sequence[Propagator]) -> CorrectionResult:
    """Applies the correction, refines, and measures."""
    marked = set(correction.painted) if correction.kind == "box" else set()
    refined = refine(start.clip, correction.track, correction.painted, propagators, marked=marked).track
    before, after = (masks_of(track, start.truth.shape) for track in (correction.track, refined))
    return CorrectionResult(
        seed=start.scene.seed,
        instruction=start.instruction.text,
        kind=correction.kind,
        painted=list(correction.painted),
        before=[region_similarity(b, t) for b, t in zip(before, start.truth, strict=True)],
        after=[region_similarity(a, t) for a, t in zip(after, start.truth, strict=True)],
        sources=[frame.provenance for frame in refined.frames],
    )


def one_correction(
    engine: Engine,
    propagators: Sequence[Propagator],
    *,
    split: Split = "test",
    count: int = 10,
    seed: int = 0,
    height: int = 160,
    frames: Sequence[int] = (1,),
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[CorrectionResult]:
    """Applies every kind of correction to one track in each of `count` clips, and yields the results.

    Args:
        engine: draws the tracks and, if it can, the mask of a box.
        propagators: the preferred one first.
        split: of the shapes world.
        seed: of the first clip; clips without a referring instruction about one object are skipped.
        height: rows of the clips, in pixels.
        frames: numbers of corrected frames to try.
        progress: called with (clips done, clips in all).
    """
    done = 0
    with tempfile.TemporaryDirectory(prefix="trajseg-") as folder:
        while done < count:
            start = start_of(engine, sample_scene(seed, split), height, Path(folder))
            seed += 1
            if start is None:
                continue
            for number in frames:
                for correction in corrections(start, drawing(engine, start.instruction.text), number):
                    yield corrected(start, correction, propagators)
            start.clip.path.unlink()
            done += 1
            if progress:
                progress(done, count)


def drawing(engine: Engine, instruction: str) -> list[Draw]:
    """The engine's functions from a mark to a mask; empty if it has none."""
    marking = marker(engine)
    return [] if marking is None else [lambda clip, mark, known: marking.mark(clip, mark, instruction, known)]


def summary(results: Sequence[CorrectionResult]) -> dict[str, float]:
    """Mean and worst change in J, and the mean by kind; for two painted frames with the suffix "_of_2"."""
    figures: dict[str, float] = {}
    for count in sorted({len(one.painted) for one in results}):
        own = [one for one in results if len(one.painted) == count]
        of = "" if count == 1 else f"_of_{count}"
        figures[f"worst_clip_change{of}"] = min(one.change for one in own)
        figures[f"mean_change{of}"] = fmean(one.change for one in own)
        for kind in KINDS:
            if changes := [one.change for one in own if one.kind == kind]:
                figures[f"mean_change{of}_{kind}"] = fmean(changes)
    return figures
