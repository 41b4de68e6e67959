"""What one correction does to the frames that nobody painted: a person changes a track's frame or two on shapes clips.

Four kinds of correction, each on the frames of a clip that need it most: a blob is erased, a missing part is added, the
whole mask is redrawn, or, in the box view, a box is moved to the object. Where a prediction has no blob, or lacks no
part, a stretch of it is given one, since larger models on real clips have them. J is measured frame by frame, before
and after, on the frames that nobody painted.
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
from trajseg.shapes.evaluation.review import Start, start_of
from trajseg.shapes.world.scenes import Split, sample_scene
from trajseg.tracks import MaskTrack, TrackFrame, rle
from trajseg.tracks.mark import Mark
from trajseg.tracks.region_similarity import region_similarity

if TYPE_CHECKING:
    from trajseg.engines.base import Engine

Kind = Literal["erase", "add", "redraw", "box"]
KINDS: tuple[Kind, ...] = get_args(Kind)

NOTICED = 0.08
"""Share of the object's area from which on a person takes the trouble to erase a blob or to add a part."""

STRETCH = 0.5
"""Share of the clip's frames over which a prediction without such a fault is given one."""

APART = 0.2
"""Share of the clip's frames that two painted frames lie apart at least."""


@dataclass(frozen=True)
class Correction:
    """A person's change to a track before it is submitted.

    Args:
        kind: what the person does.
        track: what is corrected; the prediction, or the prediction with a fault added to a stretch of frames.
        painted: what stands afterwards on the frames that are changed.
    """

    kind: Kind
    track: MaskTrack
    painted: Painted


@dataclass(frozen=True)
class CorrectionResult:
    """What one correction did. J of each frame before and after; `painted` are the frames that were changed."""

    seed: int
    instruction: str
    kind: Kind
    painted: list[int]
    before: list[float]
    after: list[float]
    sources: list[str]

    @property
    def change(self) -> float:
        """By how much the mean J of the frames that nobody painted rose."""
        others = [i for i in range(len(self.before)) if i not in self.painted]
        return fmean(self.after[i] - self.before[i] for i in others) if others else 0.0

    def to_json(self) -> dict[str, Any]:
        """All of it, for a file."""
        return asdict(self) | {"change": self.change}


def corrections(start: Start, draws: Sequence[Draw], frames: int = 1) -> Iterator[Correction]:
    """The corrections of one clip, one of each kind that can be made there.

    Args:
        draws: the ways from a mark to a mask; empty where the engine has none.
        frames: how many frames are changed; a kind for which a clip has fewer is passed over.
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
    """The frames that show the object, the one with the lowest J first; both masks bool [N, H, W]."""
    shown = [i for i, mask in enumerate(truth) if mask.any()]
    return sorted(shown, key=lambda i: region_similarity(predicted[i], truth[i]))


def _spaced(indices: Sequence[int], frames: int, most: int) -> list[int]:
    """The first `most` of the indices that lie APART, in time order."""
    chosen: list[int] = []
    for index in indices:
        if len(chosen) < most and all(abs(index - other) >= APART * frames for other in chosen):
            chosen.append(index)
    return sorted(chosen)


def _parts(wrong: np.ndarray, truth: np.ndarray, beside: np.ndarray | None = None) -> dict[int, np.ndarray]:
    """By frame, its largest connected part of `wrong` if a person would notice it; the largest of all comes first.

    Args:
        wrong, truth: bool [N, H, W].
        beside: only frames where this has a mask count, bool [N, H, W]; None for all.
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
    """A stretch of a clip's frames, by the clip's seed."""
    length = max(2, round(STRETCH * frames))
    start = seed * 7 % (frames - length + 1) if frames > length else 0
    return slice(start, start + length)


def _blob(start: Start) -> np.ndarray:
    """A blob over a stretch of the clip, bool [N, H, W]: part of another object that is seen there, else background."""
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
    """Masks bool [N, H, W] that lack their lower two fifths over a stretch of the clip."""
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


def corrected(start: Start, correction: Correction, propagators: Sequence[Propagator]) -> CorrectionResult:
    """Make the correction, refine, and measure."""
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
    """Correct one track in each of `count` clips in every way, and yield what came of it.

    Args:
        engine: draws the tracks, and the mask of a box where it can.
        propagators: carry corrections on; the preferred one first.
        split: of the shapes world.
        seed: of the first clip; clips without a referring instruction about one object are passed over.
        height: rows of the clips, in pixels.
        frames: how many frames a correction changes; every number of them is tried in turn.
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
    """Ways in which the engine draws a mark's object; empty if it cannot."""
    marking = marker(engine)
    return [] if marking is None else [lambda clip, mark, known: marking.mark(clip, mark, instruction, known)]


def summary(results: Sequence[CorrectionResult]) -> dict[str, float]:
    """The mean change in J, the worst one of any clip, and the mean by kind; of several painted frames, "_of_2"."""
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
