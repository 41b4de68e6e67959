"""Benefit of reviewing suggested frames: a simulated annotator paints the ground truth on shapes clips.

One track per clip is corrected: the engine's answer to the clip's first referring instruction, whichever object it
shows. The annotator paints the frames that `suggest` names, one at a time or three at once, and `refine` propagates
them. There are two baselines without suggestions: the same number of evenly spaced frames, refined in the same way; and
evenly spaced key frames with linear box interpolation, as in box tools.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click
import cv2
import numpy as np

from trajseg.bars import progress_bar
from trajseg.correction import Propagator, Refinement, refine
from trajseg.correction.review import suggest
from trajseg.correction.strategy import Evidence
from trajseg.engines.capabilities import propagators
from trajseg.evaluation.answers import masks_of
from trajseg.evaluation.metrics import score
from trajseg.files import write_json
from trajseg.shapes.dataset import ShapesDataset, write_scene
from trajseg.shapes.world.language import Instruction, instructions
from trajseg.shapes.world.scenes import Scene, Split, sample_scene
from trajseg.tracks import MaskTrack
from trajseg.video import Clip
from trajseg.video.spacing import bin_centres, end_to_end

if TYPE_CHECKING:
    from trajseg.engines.base import Engine

SUGGESTED = 3
"""Frames suggested at once."""


@dataclass(frozen=True)
class StartTrack:
    """An engine's track, before correction, and its ground truth.

    truth: bool [N, H, W]; track: the answer to `instruction` (empty if there was none); ids: the scene's objects,
    numbered from 1, integers [N, H, W].
    """

    scene: Scene
    clip: Clip
    instruction: Instruction
    track: MaskTrack
    truth: np.ndarray
    ids: np.ndarray

    def worth(self, track: MaskTrack) -> float:
        """Mean J&F of a track over all frames."""
        return score(masks_of(track, self.truth.shape), self.truth).jf


@dataclass
class ReviewResult:
    """The effect of corrections on one track; each J&F is a mean over the clip's frames.

    Args:
        seed, instruction, motion, frames: of the clip and its object.
        start: J&F of the engine's track.
        suggested, uniform: J&F after SUGGESTED painted frames, suggested or evenly spaced.
        course: J&F after 0, 1, 2, ... painted frames, each the first suggestion; empty if not requested.
        uniform_boxes: key frames that interpolated boxes need; None if not requested.
        chosen: the propagator of each step of `course`.
        painted: the frames painted in `course`, in order, with the reason.
    """

    seed: int
    instruction: str
    motion: str
    frames: int
    start: float
    suggested: float
    uniform: float
    course: list[float] = field(default_factory=list)
    uniform_boxes: int | None = None
    chosen: list[str] = field(default_factory=list)
    painted: list[tuple[int, str]] = field(default_factory=list)

    @property
    def frames_needed(self) -> int:
        """Painted frames at the end of `course`, when it reached the goal or the limit."""
        return len(self.course) - 1

    def to_json(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self) | {"frames_needed": self.frames_needed if self.course else None}


def start_of(engine: Engine, scene: Scene, height: int, folder: Path) -> StartTrack | None:
    """The engine's answer to the scene's first referring instruction about one object; None if it has none."""
    asked = [
        i
        for i in instructions(scene, random.Random(scene.seed), limit_per_kind=1)
        if i.category == "referring" and len(i.targets) == 1
    ]
    if not asked:
        return None
    clip, ids = write_scene(scene, folder / f"{scene.split}-{scene.seed:06d}.mp4", height)
    found = engine.segment(clip, asked[0].text).result().tracks
    empty = MaskTrack.from_masks("t1", [None] * len(clip), clip.frame_map.times, [0.0] * len(clip))
    return StartTrack(scene, clip, asked[0], found[0] if found else empty, ids == asked[0].targets[0] + 1, ids)


def paint(start: StartTrack, frames: Sequence[int], propagators: Sequence[Propagator]) -> Refinement:
    """The track after painting the ground truth on `frames`."""
    return refine(start.clip, start.track, {index: start.truth[index] for index in frames}, propagators)


def evenly(count: int, frames: int) -> list[int]:
    """At most `count` frames of a clip, at the centres of equal bins."""
    return sorted(set(bin_centres(frames, count)))


def corrected(start: StartTrack, propagators: Sequence[Propagator]) -> ReviewResult:
    """Results with SUGGESTED suggested frames, and with the same number of evenly spaced ones."""
    frames = len(start.clip)
    suggested = [suggestion.index for suggestion in suggest(start.track, SUGGESTED)]
    return ReviewResult(
        seed=start.scene.seed,
        instruction=start.instruction.text,
        motion=start.scene.objects[start.instruction.targets[0]].motion,
        frames=frames,
        start=start.worth(start.track),
        suggested=start.worth(paint(start, suggested, propagators).track),
        uniform=start.worth(paint(start, evenly(SUGGESTED, frames), propagators).track),
    )


def correct_until(
    start: StartTrack, found: ReviewResult, propagators: Sequence[Propagator], goal: float, most: int
) -> None:
    """Paints the first suggestion and refines, until J&F reaches `goal` or `most` frames are painted."""
    track = start.track
    agreement: dict[int, float] | None = None
    painted: list[int] = []
    found.course.append(found.start)
    while found.course[-1] < goal and len(painted) < most:
        suggestions = suggest(track, 1, Evidence(painted, agreement or {}))
        if not suggestions:
            break
        painted.append(suggestions[0].index)
        found.painted.append((suggestions[0].index, suggestions[0].reason))
        refined = paint(start, painted, propagators)
        track, agreement = refined.track, refined.agreement
        found.chosen.append(refined.chosen)
        found.course.append(start.worth(track))


def uniform_boxes_needed(truth: np.ndarray, goal: float) -> int:
    """The fewest evenly spaced key frames with which interpolated boxes reach J&F `goal`; N if fewer do not.

    They include the first and the last frame, because beyond its outermost key frames a box does not move.
    """
    frames = len(truth)
    for count in range(1, frames):
        ends = end_to_end(frames, count) if count > 1 else [frames // 2]
        if score(interpolated(truth, ends), truth).jf >= goal:
            return count
    return frames


def interpolated(truth: np.ndarray, keys: Sequence[int]) -> np.ndarray:
    """Result of an ideal box tool, given exact masks on the key frames: bool [N, H, W].

    Between two key frames the box is interpolated linearly, and the mask of the nearest key frame is moved and scaled
    with it, as if the annotator had also drawn the outline. The object is present if it is on the nearest key frame.
    """
    out = np.zeros_like(truth)
    boxes = {key: _box(truth[key]) for key in keys if truth[key].any()}
    for index in range(len(truth)):
        nearest = min(keys, key=lambda key: abs(key - index))
        if nearest not in boxes:
            continue
        before = max((key for key in boxes if key <= index), default=nearest)
        after = min((key for key in boxes if key >= index), default=nearest)
        share = (index - before) / (after - before) if after > before else 0.0
        box = (1 - share) * boxes[before] + share * boxes[after]
        out[index] = _moved(truth[nearest], boxes[nearest], box)
    return out


def _box(mask: np.ndarray) -> np.ndarray:
    """x, y, width, height in pixels, float64 [4]."""
    return np.array(cv2.boundingRect(mask.astype(np.uint8)), float)


def _moved(mask: np.ndarray, box: np.ndarray, to: np.ndarray) -> np.ndarray:
    """The mask with its box moved and scaled onto another one."""
    scale = to[2:] / box[2:]
    shift = to[:2] - 0.5 - scale * (box[:2] - 0.5)
    matrix = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
    soft = cv2.warpAffine(mask.astype(np.float32), matrix, mask.shape[::-1], flags=cv2.INTER_LINEAR)
    return soft > 0.5


def review(
    engine: Engine,
    propagators: Sequence[Propagator],
    *,
    split: Split = "test",
    count: int = 10,
    seed: int = 0,
    height: int = 240,
    goal: float | None = None,
    most: int = 20,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[ReviewResult]:
    """Corrects one track in each of `count` clips, and yields each result.

    Args:
        engine: draws the tracks.
        propagators: the preferred one first.
        split: of the shapes world.
        seed: of the first clip; clips without a referring instruction about one object are skipped.
        height: rows of the clips, in pixels.
        goal: J&F that painting one frame at a time, and interpolated boxes, should reach; None skips both.
        most: painted frames per track, at most.
        progress: called with (clips done, clips in all).
    """
    done = 0
    with tempfile.TemporaryDirectory(prefix="trajseg-") as folder:
        while done < count:
            scene = sample_scene(seed, split)
            seed += 1
            start = start_of(engine, scene, height, Path(folder))
            if start is None:
                continue
            one = corrected(start, propagators)
            if goal is not None:
                correct_until(start, one, propagators, goal, most)
                one.uniform_boxes = uniform_boxes_needed(start.truth, goal)
            start.clip.path.unlink()
            done += 1
            if progress:
                progress(done, count)
            yield one


def summary(found: Sequence[ReviewResult]) -> dict[str, Any]:
    """Means over the tracks: J&F at the start, and the gains of suggested and of evenly spaced frames."""
    return {
        "tracks": len(found),
        "start_jf": fmean(one.start for one in found),
        "gain_suggested": fmean(one.suggested - one.start for one in found),
        "gain_uniform": fmean(one.uniform - one.start for one in found),
    }


def report(engine: Engine, dataset: ShapesDataset, json_path: Path | None) -> None:
    """Prints the output of `trajseg evaluate --review`: each track, and one JSON object as the last line."""
    with progress_bar(f"{engine.spec.model_version}: review") as progress:
        tracks = review(
            engine,
            propagators(engine),
            split=dataset.split,
            count=dataset.count,
            seed=dataset.seed,
            height=dataset.height,
            progress=progress,
        )
        found = list(tracks)
    click.echo(f"J&F before, after {SUGGESTED} suggested frames, after {SUGGESTED} evenly spaced ones")
    for one in found:
        click.echo(f"  {one.start:.3f}  {one.suggested:.3f}  {one.uniform:.3f}  {one.instruction}")
    if json_path is not None:
        write_json(json_path, [one.to_json() for one in found])
    figures = summary(found)
    click.echo(json.dumps({name: round(value, 4) for name, value in figures.items()}))
