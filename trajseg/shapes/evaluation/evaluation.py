"""Evaluation: an engine is asked about shapes clips in real mp4 files, and scored by kind of instruction."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from trajseg.engines.base import Captioner
from trajseg.errors import CheckpointError, InputError
from trajseg.evaluation.flops import count_flops
from trajseg.evaluation.metrics import Presence, Score, Steadiness, match, mean, presence, score, steadiness
from trajseg.shapes.evaluation.captions import Described, caption_figures, describe, words_of
from trajseg.shapes.evaluation.contradictions import Agreeing, Compared, compare, contradiction_figures
from trajseg.shapes.world.conditions import PLAIN, Condition
from trajseg.shapes.world.language import CATEGORY, KINDS, Instruction, instructions, parse_caption
from trajseg.shapes.world.scenes import Scene, Split, sample_scene
from trajseg.tracks import MaskTrack, Result
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import Clip, even_size, open_clip, write_video

if TYPE_CHECKING:
    from trajseg.engines.base import Engine

CATEGORIES = ("referring", "reasoning", "several", "none")
LAST_LINE = (
    "referring_jf",
    "reasoning_jf",
    "none_accuracy",
    "several_jf",
    "caption_accuracy",
    "avg_iou",
    "avg_iou_truth",
    "seconds_per_clip",
)
"""The figures that the command prints last, as one JSON object."""


@dataclass(frozen=True)
class Answer:
    """One instruction, what the engine made of it, and how good that is.

    Args:
        seed: which scene.
        asked: the instruction and its targets.
        result: what the engine answered.
        score: J and F of the union of all tracks against the union of all targets, means over all frames.
        matched: the same object by object, in the best pairing of tracks and targets; None without targets.
        overlaps: J of the union of tracks with each object of the scene, mean over frames that have either.
        steadiness, truth_steadiness: IoU between consecutive frames, of the unions.
        presence: in which frames the unions have a mask.
        named: whether a track's caption has the one target's size, colour, shape and motion; None for others.
        seconds: that the engine took.
        flops: floating-point operations of the same run; counted for one instruction of each clip, else None.
    """

    seed: int
    asked: Instruction
    result: Result
    score: Score
    matched: Score | None
    overlaps: tuple[float, ...]
    steadiness: Steadiness
    truth_steadiness: Steadiness
    presence: Presence
    named: bool | None
    seconds: float
    flops: float | None = None

    @property
    def empty(self) -> bool:
        """Whether no mask was drawn in any frame."""
        return not any(track.present for track in self.result.tracks)

    @property
    def right_object(self) -> bool | None:
        """Whether the mask is on the one object meant more than on any other; None for other questions."""
        if len(self.asked.targets) != 1:
            return None
        best = int(np.argmax(self.overlaps))
        return best == self.asked.targets[0] and self.overlaps[best] > 0

    def to_json(self) -> dict[str, Any]:
        """Numbers and words, without masks."""
        return {
            "seed": self.seed,
            **asdict(self.asked),
            "answer": self.result.answer,
            "tracks": len(self.result.tracks),
            "j": self.score.j,
            "f": self.score.f,
            "jf": self.score.jf,
            "matched_jf": None if self.matched is None else self.matched.jf,
            "empty": self.empty,
            "right_object": self.right_object,
            "named": self.named,
            "consecutive_iou": self.steadiness.mean,
            "consecutive_iou_truth": self.truth_steadiness.mean,
            "ghosts": self.presence.ghosts,
            "missed": self.presence.missed,
            "seconds": self.seconds,
            "flops": self.flops,
        }


@dataclass
class Evaluation:
    """All answers of one run, what the engine said of each object when shown its true track, and, where that was
    asked for, how it compares captions with instructions."""

    data: str
    model_version: str
    height: int
    clips: int
    answers: list[Answer] = field(default_factory=list)
    described: list[Described] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)

    def of(self, *, kind: str | None = None, category: str | None = None) -> list[Answer]:
        return [
            a
            for a in self.answers
            if (kind is None or a.asked.kind == kind) and (category is None or a.asked.category == category)
        ]

    def headline(self) -> dict[str, float | None]:
        """The figures that stand for the whole: means over instructions, None where there are none."""
        meant = [a for a in self.answers if a.asked.targets]
        single = [a for a in meant if len(a.asked.targets) == 1]
        captions = caption_figures(self.described)
        return {
            "referring_jf": mean(a.score.jf for a in self.of(category="referring")),
            "reasoning_jf": mean(a.score.jf for a in self.of(category="reasoning")),
            "none_accuracy": mean(a.empty for a in self.of(category="none")),
            "several_jf": mean(a.score.jf for a in self.of(category="several")),
            "caption_accuracy": captions["right"] if captions else None,
            "right_object": mean(bool(a.right_object) for a in single),
            "named_right": mean(bool(a.named) for a in single),
            "ghosts": mean(a.presence.ghosts for a in meant),
            "missed": mean(a.presence.missed for a in meant),
            "avg_iou": mean(a.steadiness.mean for a in meant),
            "avg_iou_truth": mean(a.truth_steadiness.mean for a in meant),
            "seconds_per_clip": mean(a.seconds for a in self.answers),
            "flops_per_clip": mean(a.flops for a in self.answers),
        }

    def table(self) -> list[dict[str, Any]]:
        """A row for each category and kind, in a fixed order; None where a figure does not apply."""
        rows = []
        for category in CATEGORIES:
            kinds = [k for k in KINDS if CATEGORY[k] == category]
            rows.append(_row(category, None, self.of(category=category)))
            if len(kinds) > 1:
                rows += [_row(category, kind, self.of(kind=kind)) for kind in kinds]
        return [row for row in rows if row["count"]]

    def to_json(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "model_version": self.model_version,
            "height": self.height,
            "clips": self.clips,
            "headline": self.headline(),
            "table": self.table(),
            "captions": caption_figures(self.described),
            "contradictions": contradiction_figures(self.compared),
            "answers": [a.to_json() for a in self.answers],
            "described": [d.to_json() for d in self.described],
            "compared": [asdict(c) for c in self.compared],
        }


def evaluate(
    segmenter: Engine,
    *,
    split: Split = "test",
    count: int = 50,
    seed: int = 0,
    height: int = 240,
    per_kind: int = 1,
    flops: bool = False,
    contradictions: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Asks `segmenter` about `count` clips of the shapes world and scores what it answers.

    Each clip is written to an H.264 file once and read back for every instruction, as a user's video would
    be.

    Args:
        segmenter: any engine; one that can also describe tracks is shown each clip's true ones.
        split: of the shapes world.
        count: clips; their seeds are `seed`, `seed` + 1, ...
        height: rows of the clips, in pixels.
        per_kind: instructions of each kind about a clip, as far as it has them.
        flops: also count floating-point operations, of one instruction a clip.
        contradictions: also compare the objects' captions with each instruction that means something.
        progress: called with (clips done, clips in all).
    """
    found = Evaluation(f"shapes:{split}", segmenter.model_version, height, count)
    captioner = segmenter if isinstance(segmenter, Captioner) else None
    with tempfile.TemporaryDirectory(prefix="trajseg-") as folder:
        for number in range(count):
            scene = sample_scene(seed + number, split)
            clip, truth = _write(scene, Path(folder) / f"{split}-{scene.seed:06d}.mp4", height)
            asked = instructions(scene, random.Random(scene.seed), limit_per_kind=per_kind)
            for place, one in enumerate(asked):
                answer = _ask(segmenter, scene, clip, truth, one)
                # One a clip, of changing kind: counting takes another, slower run.
                if flops and place == number % len(asked):
                    answer = replace(answer, flops=count_flops(partial(segmenter.segment, clip, one.text)))
                found.answers.append(answer)
                if contradictions and one.targets and isinstance(segmenter, Agreeing):
                    found.compared += compare(segmenter, scene, clip, one)
            if captioner is not None:
                try:
                    found.described += describe(captioner, scene, clip, truth)
                except CheckpointError:
                    captioner = None
            clip.path.unlink()
            if progress:
                progress(number + 1, count)
    return found


def _write(scene: Scene, path: Path, height: int, condition: Condition = PLAIN) -> tuple[Clip, np.ndarray]:
    """The clip as a file, and ids uint8 [N, H, W] at the size of its frames. `scene` is already as changed."""
    ids: list[np.ndarray] = []

    def frames() -> Iterator[np.ndarray]:
        for frame, visible in condition.frames_and_ids(scene, height):
            ids.append(even_size(visible[..., None])[..., 0])
            yield frame

    write_video(path, frames(), scene.fps, condition.crf, condition.encoder)
    return open_clip(path), np.stack(ids)


def _ask(engine: Engine, scene: Scene, clip: Clip, ids: np.ndarray, asked: Instruction) -> Answer:
    start = time.perf_counter()
    result = engine.segment(clip, asked.text)
    seconds = time.perf_counter() - start
    predictions = [masks_of(track, ids.shape) for track in result.tracks]
    union = np.any(predictions, axis=0) if predictions else np.zeros(ids.shape, bool)
    truth = np.isin(ids, [k + 1 for k in asked.targets])
    overlaps = [_overlap(union, ids == k + 1) for k in range(len(scene.objects))]
    named = None
    if len(asked.targets) == 1:
        truth_words = words_of(scene.objects[asked.targets[0]])
        named = any(parse_caption(track.caption) == truth_words for track in result.tracks)
    return Answer(
        seed=scene.seed,
        asked=asked,
        result=result,
        score=_empty_score(union) if not asked.targets else score(union, truth),
        matched=_matched(predictions, [ids == k + 1 for k in asked.targets]) if asked.targets else None,
        overlaps=tuple(overlaps),
        steadiness=steadiness(union),
        truth_steadiness=steadiness(truth),
        presence=presence(union, truth),
        named=named,
        seconds=seconds,
    )


def masks_of(track: MaskTrack, shape: Sequence[int]) -> np.ndarray:
    """All masks of a track, bool [N, H, W]."""
    return np.stack([track.mask(i, (shape[1], shape[2])) for i in range(shape[0])])


def _overlap(prediction: np.ndarray, truth: np.ndarray) -> float:
    pairs = zip(prediction, truth, strict=True)
    return mean(region_similarity(p, t) for p, t in pairs if p.any() or t.any()) or 0.0


def _empty_score(union: np.ndarray) -> Score:
    """Where nothing is meant, J = F = 1 in a frame without mask and 0 in any other, as MeViS v2 has it."""
    value = float(np.mean(~union.any(axis=(1, 2))))
    return Score(value, value)


def _matched(predictions: list[np.ndarray], truths: list[np.ndarray]) -> Score:
    if len(truths) == 1 and len(predictions) == 1:
        return score(predictions[0], truths[0])
    pairing = match(predictions, truths)
    scores = [score(None if j is None else predictions[j], t) for j, t in zip(pairing, truths, strict=True)]
    return Score(fmean(s.j for s in scores), fmean(s.f for s in scores))


def _row(category: str, kind: str | None, answers: list[Answer]) -> dict[str, Any]:
    single = [a for a in answers if a.right_object is not None]
    right = [a for a in single if a.right_object]
    meant = [a for a in answers if a.asked.targets]
    return {
        "category": category,
        "kind": kind,
        "count": len(answers),
        "j": mean(a.score.j for a in meant),
        "f": mean(a.score.f for a in meant),
        "jf": mean(a.score.jf for a in meant),
        "matched_jf": mean(a.matched.jf for a in meant if a.matched),
        "right_object": mean(bool(a.right_object) for a in single),
        "j_of_right": mean(a.score.j for a in right),
        "named_right": mean(bool(a.named) for a in single),
        "ghosts": mean(a.presence.ghosts for a in meant),
        "missed": mean(a.presence.missed for a in meant),
        "empty": mean(a.empty for a in answers),
        "avg_iou": mean(a.steadiness.mean for a in meant),
        "avg_iou_present": mean(a.steadiness.mean_present for a in meant),
        "avg_iou_truth": mean(a.truth_steadiness.mean for a in meant),
        "avg_iou_truth_present": mean(a.truth_steadiness.mean_present for a in meant),
        "empty_pairs": mean(a.steadiness.empty_share for a in meant),
        "seconds": mean(a.seconds for a in answers),
        "gflops": mean(a.flops / 1e9 for a in answers if a.flops is not None),
    }


@click.command("evaluate")
@click.option("--data", default="shapes:test", show_default=True, help="shapes:test, shapes:val or shapes:train.")
@click.option("--model", default="trajseg-tiny", show_default=True, help="A shipped checkpoint or a folder.")
@click.option("--device", help="Torch's name of a device; the first GPU where there is one, else the CPU.")
@click.option("--count", type=click.IntRange(1), default=50, show_default=True, help="How many clips.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the first clip.")
@click.option("--height", type=click.IntRange(64, 2160), default=240, show_default=True, help="Rows of the clips.")
@click.option("--per-kind", type=click.IntRange(1), default=1, show_default=True, help="Instructions a kind and clip.")
@click.option("--contradictions", is_flag=True, help="Also compare captions with instructions.")
@click.option("--review", is_flag=True, help="Measure what correcting suggested frames gains, and nothing else.")
@click.option(
    "--conditions",
    is_flag=False,
    flag_value="all",
    metavar="[NAME,NAME...]",
    help="Ask the same under other conditions (sizes, noise, codecs, speeds, another painter), and nothing else.",
)
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures.")
@click.option(
    "--picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw best, median and worst, or each condition."
)
@click.pass_obj
def command(
    loader: Callable[[str, str | None], Engine] | None,
    data: str,
    model: str,
    device: str | None,
    count: int,
    seed: int,
    height: int,
    per_kind: int,
    contradictions: bool,
    review: bool,
    conditions: str | None,
    json_path: Path | None,
    picture: Path | None,
) -> None:
    """Measure a checkpoint on clips whose masks are known.

    The clips are written to mp4 files and read back. The last line printed is one JSON object with the
    figures that stand for the whole: means over instructions, and over objects for caption_accuracy, which is
    null where the checkpoint cannot describe tracks.
    """
    from trajseg.shapes.evaluation.report import draw_picture, print_table, progress_bar, write_figures

    world, _, split = data.partition(":")
    if world != "shapes" or split not in ("train", "val", "test"):
        raise InputError(f"There is no data set {data}.", "Give shapes:test, shapes:val or shapes:train.")
    from trajseg.cli import load_engine

    engine = (loader or load_engine)(model, device)
    if review:
        from trajseg.shapes.evaluation.review import report

        report(engine, split, count, seed, height, json_path)  # type: ignore[arg-type]
        return
    if conditions is not None:
        from trajseg.shapes.evaluation.conditions import report as report_conditions

        report_conditions(engine, conditions, split, count, seed, height, per_kind, json_path, picture)  # type: ignore[arg-type]
        return
    with progress_bar(f"{engine.model_version} on {data}") as progress:
        found = evaluate(
            engine,
            split=split,  # type: ignore[arg-type]
            count=count,
            seed=seed,
            height=height,
            per_kind=per_kind,
            flops=True,
            contradictions=contradictions,
            progress=progress,
        )
    print_table(found)
    write_figures(json_path, found.to_json())
    if picture is not None:
        draw_picture(found, picture)
    headline = found.headline()
    rounded = {name: None if (value := headline[name]) is None else round(value, 4) for name in LAST_LINE}
    click.echo(json.dumps(rounded))
