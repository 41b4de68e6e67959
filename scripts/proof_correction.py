"""`make proof-correction`: how few frames are left for a person to paint, on shapes clips and on real ones.

A simulated annotator corrects one track per clip by painting the ground truth on the frames that `suggest` names, one
at a time, until the track's J&F reaches 0.95. Two baselines are printed beside it: evenly spaced key frames with linear
box interpolation, and three suggested frames against three evenly spaced ones. On further clips one frame is corrected,
then two (a blob erased, a part added, the whole mask redrawn, a box moved). J of the unpainted frames is measured
before and after. On the real clips, optical flow draws every hand-checked mask from the others. The last line printed
is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from trajseg import VideoSegmenter
from trajseg.bars import progress_bar
from trajseg.correction import FlowPropagator, Painted, Propagator
from trajseg.files import write_json
from trajseg.shapes.evaluation import one_correction as single
from trajseg.shapes.evaluation.one_correction import CorrectionResult, one_correction
from trajseg.shapes.evaluation.review import ReviewResult, review, summary
from trajseg.tracks import rle
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import Clip, open_clip

Measured = TypeVar("Measured", ReviewResult, CorrectionResult)

GOAL = 0.95
MOST = 20
SETTINGS = ("painted", "seed", "split", "height", "model", "propagators")
"""Options that must be equal for a run to continue from the results of another."""
ROOT = Path(__file__).parent.parent


def main() -> None:
    """Measure, print a table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=20, help="shapes clips (20); 0 for none")
    parser.add_argument("--corrections", type=int, default=40, help="shapes clips that get one correction (40)")
    parser.add_argument("--painted", default="1,2", help="how many frames a correction changes, each in turn (1,2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first clip (0)")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="of the shapes world (test)")
    parser.add_argument("--height", type=int, default=160, help="rows of the shapes clips (160)")
    parser.add_argument("--model", default="trajseg-tiny", help="draws the tracks to be corrected (trajseg-tiny)")
    parser.add_argument("--propagators", default="flow,memory", help="the preferred one first (flow,memory)")
    parser.add_argument("--json", type=Path, help="write every track's figures here")
    parser.add_argument("--resume", action="store_true", help="continue from the results in that file")
    given = parser.parse_args()
    if given.resume and not given.json:
        parser.error("--resume continues from the file given as --json: name it")
    settings = {name: getattr(given, name) for name in SETTINGS}
    segmenter = VideoSegmenter.from_pretrained(given.model)
    known: dict[str, Propagator] = {"flow": FlowPropagator(), "memory": segmenter.propagator()}
    propagators = [known[name] for name in given.propagators.split(",")]
    with progress_bar("real clips") as progress:
        real = real_figures(known["flow"], progress)
    found, corrected = earlier(given.json, settings) if given.resume else ([], [])
    reviews = partial(review, segmenter, propagators, split=given.split, height=given.height, goal=GOAL, most=MOST)
    frames = [int(number) for number in given.painted.split(",")]
    changes = partial(one_correction, segmenter, propagators, split=given.split, height=given.height, frames=frames)

    def keep() -> None:
        if given.json:
            save(given.json, settings, found, real, corrected)

    measure(f"{given.clips} shapes clips", reviews, found, given.clips, given.seed, keep)
    measure(f"{given.corrections} clips, one correction each", changes, corrected, given.corrections, given.seed, keep)
    if found:
        print_tables(found, real)
    print_corrections(corrected)
    print(json.dumps(last_line(found, real, corrected)))


def measure(
    title: str,
    results_of: Callable[..., Iterator[Measured]],
    results: list[Measured],
    clips: int,
    seed: int,
    keep: Callable[[], None],
) -> None:
    """Add the results of the clips that are not yet measured, and keep the file up to date.

    Args:
        results_of: called with count, seed and progress.
        results: of the clips that were measured before, in the order of their seeds.
        clips: how many are to be measured in all.
        seed: of the first clip.
    """
    known = {result.seed for result in results}
    with progress_bar(title) as progress:
        for result in results_of(count=clips - len(known), seed=max(known, default=seed - 1) + 1, progress=progress):
            results.append(result)
            keep()


def earlier(path: Path, settings: dict[str, Any]) -> tuple[list[ReviewResult], list[CorrectionResult]]:
    """Results of an earlier run, without its last corrected clip, which may be incomplete."""
    if not path.exists():
        return [], []
    held = json.loads(path.read_text(encoding="utf-8"))
    if held.get("settings") != settings:
        sys.exit(f"{path} holds another measurement: {held.get('settings')}. Name another file, or leave out --resume.")
    found = [_from_json(ReviewResult, one) for one in held["tracks"]]
    corrected = [_from_json(CorrectionResult, one) for one in held["corrections"]]
    return found, [one for one in corrected if one.seed != corrected[-1].seed]


def _from_json(kind: type[Measured], form: dict[str, Any]) -> Measured:
    """A result from its `to_json`, which has more keys than the class has fields."""
    return kind(**{field.name: form[field.name] for field in fields(kind)})


def save(
    path: Path,
    settings: dict[str, Any],
    found: Sequence[ReviewResult],
    real: dict[str, dict[str, float]],
    corrected: Sequence[CorrectionResult],
) -> None:
    """Everything measured so far, as JSON."""
    figures = {
        "settings": settings,
        **last_line(found, real, corrected),
        **(summary(found) if found else {}),
        **(single.summary(corrected) if corrected else {}),
        "real": real,
        "tracks": [one.to_json() for one in found],
        "corrections": [one.to_json() for one in corrected],
    }
    write_json(path, figures)


def last_line(
    found: Sequence[ReviewResult], real: dict[str, dict[str, float]], corrected: Sequence[CorrectionResult] = ()
) -> dict[str, float]:
    """The summary figures."""
    figures = {"flow_j_real": fmean(figure for clip in real.values() for figure in clip.values())}
    if found:
        means = summary(found)
        figures["frames_per_track"] = fmean(one.frames_needed for one in found)
        figures["frames_per_track_uniform_boxes"] = fmean(one.uniform_boxes or 0 for one in found)
        figures |= {name: means[name] for name in ("gain_suggested", "gain_uniform")}
    if corrected:
        changes = single.summary(corrected)
        # The kinds have a table of their own.
        figures |= {name: value for name, value in changes.items() if not name.endswith(single.KINDS)}
    return {name: round(value, 4) for name, value in figures.items()}


def real_figures(flow: Propagator, progress: Callable[[int, int], None]) -> dict[str, dict[str, float]]:
    """J against the hand-checked masks: each left out in turn ("70"), and over one gap of ten frames ("70 to 80")."""
    figures: dict[str, dict[str, float]] = {}
    sets = sorted((ROOT / "tests" / "data" / "real_masks").glob("*.json"))
    for done, path in enumerate(sets):
        clip, masks = real_masks(path)
        progress(done, len(sets))
        mine = figures.setdefault(path.stem, {})
        for key, mask in masks.items():
            mine[str(key)] = _similarity(flow, clip, {k: m for k, m in masks.items() if k != key}, key, mask)
        for start in masks:
            for end in (start - 10, start + 10):
                if end in masks:
                    mine[f"{start} to {end}"] = _similarity(flow, clip, {start: masks[start]}, end, masks[end])
    progress(len(sets), len(sets))
    return figures


def real_masks(path: Path) -> tuple[Clip, Painted]:
    """A real clip, and its hand-checked masks."""
    data = json.loads(path.read_text(encoding="utf-8"))
    clip = open_clip(ROOT / "tests" / "clips" / data["clip"])
    return clip, {int(index): rle.decode(code) for index, code in data["frames"].items()}


def _similarity(flow: Propagator, clip: Clip, painted: Painted, index: int, truth: np.ndarray) -> float:
    [drawn] = flow.propagate(clip, painted, frames=[index])
    return region_similarity(drawn.mask, truth)


def print_tables(found: Sequence[ReviewResult], real: dict[str, dict[str, float]]) -> None:
    """Each track's figures, and those of the real clips."""
    console = Console(width=150)
    table = Table(title=f"painted frames until J&F {GOAL}")
    for heading in ("instruction", "motion", "frames", "J&F before", "3 suggested", "3 even", "needed", "with boxes"):
        table.add_column(heading, justify="left" if heading in ("instruction", "motion") else "right")
    for one in found:
        reached = f"{one.frames_needed}" if one.course[-1] >= GOAL else f"more than {one.frames_needed}"
        shown = (f"{one.start:.3f}", f"{one.suggested:.3f}", f"{one.uniform:.3f}", reached, f"{one.uniform_boxes}")
        table.add_row(one.instruction, one.motion, f"{one.frames}", *shown)
    console.print(table)
    table = Table(title="optical flow against hand-checked masks, J")
    for heading in ("clip", "left out", "worst", "over ten frames", "worst"):
        table.add_column(heading, justify="left" if heading == "clip" else "right")
    for clip, figures in real.items():
        left_out = [figure for name, figure in figures.items() if "to" not in name]
        gaps = [figure for name, figure in figures.items() if "to" in name]
        columns = (fmean(left_out), min(left_out), fmean(gaps), min(gaps))
        table.add_row(clip, *(f"{figure:.3f}" for figure in columns))
    console.print(table)


def print_corrections(corrected: Sequence[CorrectionResult]) -> None:
    """Change that one correction made in the unpainted frames, by kind."""
    table = Table(title="one correction: change in J of the frames that nobody painted")
    for heading in ("kind", "painted", "clips", "mean", "worst", "best", "falls by more than .005"):
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    for count in sorted({len(one.painted) for one in corrected}):
        for kind in single.KINDS:
            own = [one.change for one in corrected if (one.kind, len(one.painted)) == (kind, count)]
            if own:
                worse = sum(change < -0.005 for change in own)
                columns = (f"{fmean(own):+.4f}", f"{min(own):+.4f}", f"{max(own):+.4f}", f"{worse}")
                table.add_row(kind, f"{count}", f"{len(own)}", *columns)
    Console(width=150).print(table)


if __name__ == "__main__":
    # Two numerical libraries with one thread per core each would compete for the cores.
    cv2.setNumThreads(1)
    main()
