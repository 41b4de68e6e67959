"""Robustness of an engine: the same scenes and instructions under conditions not used in training."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import click
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from trajseg.bars import progress_bar
from trajseg.errors import InputError
from trajseg.evaluation.answers import ScoredClip, masks_of
from trajseg.files import write_json
from trajseg.shapes.dataset import ShapesDataset, annotate, write_scene
from trajseg.shapes.evaluation.evaluation import ShapesAnswer, ShapesEvaluator
from trajseg.shapes.world.conditions import CONDITIONS, PLAIN, Condition, still_true
from trajseg.shapes.world.facts import Facts
from trajseg.shapes.world.language import Instruction, instructions
from trajseg.shapes.world.scenes import Scene, Split, sample_scene

if TYPE_CHECKING:
    from trajseg.engines.base import Engine
    from trajseg.video import Clip

FIGURES: dict[str, tuple[str, Callable[[ShapesAnswer], float | None]]] = {
    "jf": ("all J&F", lambda a: a.score.jf if a.asked.targets else None),
    "referring_jf": ("referring", lambda a: a.score.jf if a.asked.category == "referring" else None),
    "reasoning_jf": ("reasoning", lambda a: a.score.jf if a.asked.category == "reasoning" else None),
    "several_jf": ("several", lambda a: a.score.jf if a.asked.category == "several" else None),
    "none_accuracy": ("none", lambda a: float(a.empty) if a.asked.category == "none" else None),
    "right_object": ("right object", lambda a: None if a.right_object is None else float(a.right_object)),
    "j_of_right": ("J of right", lambda a: a.score.j if a.right_object else None),
}
"""By key: heading, and the value of one answer; None if the answer does not count."""

_WIDTH, _ROWS, _CAPTION, _GAP = 1500, 240, 42, 12
_PAPER, _INK, _FAINT = (250, 250, 248), (40, 40, 44), (130, 130, 136)
_MARK = (255, 0, 220)


@dataclass(frozen=True)
class PicturedFrame:
    """A decoded frame, uint8 [H, W, 3], with the masks of truth and answer, bool [H, W].

    frames: number of frames of the clip; j: mean J over all of them.
    """

    frame: np.ndarray
    truth: np.ndarray
    mask: np.ndarray
    frames: int
    j: float


@dataclass
class ConditionResult:
    """All answers under one condition, and a frame of the first clip for the picture."""

    condition: Condition
    answers: list[ShapesAnswer] = field(default_factory=list)
    shown: PicturedFrame | None = None

    def figures(self, plain: ConditionResult) -> dict[str, dict[str, float | None]]:
        """The mean of each of FIGURES, and its difference to the plain condition.

        `difference` is a mean over the instructions that count for the figure under both conditions (for j_of_right:
        objects found under both), and `error` its standard error, assuming independent instructions.
        """
        before = {(a.seed, a.asked): a for a in plain.answers}
        found = {}
        for name, (_, figure) in FIGURES.items():
            values = [value for a in self.answers if (value := figure(a)) is not None]
            changes = [
                value - value_before
                for a in self.answers
                if (a.seed, a.asked) in before
                and (value := figure(a)) is not None
                and (value_before := figure(before[a.seed, a.asked])) is not None
            ]
            found[name] = {
                "mean": fmean(values) if values else None,
                "difference": fmean(changes) if changes else None,
                "error": stdev(changes) / len(changes) ** 0.5 if len(changes) > 1 else None,
            }
        return found


@dataclass
class Comparison:
    """Results of one run: the plain condition first, then the others.

    pictured: the instruction of all pictured frames, the one of its clip with the best J under the plain condition.
    """

    data: str
    model_version: str
    clips: int
    under: list[ConditionResult]
    pictured: Instruction | None = None

    def headline(self) -> dict[str, Any]:
        """J&F over all instructions with targets: plain, mean difference, worst condition (None without others)."""
        falls = {u.condition.name: u.figures(self.under[0])["jf"] for u in self.under[1:]}
        known = {name: jf for name, jf in falls.items() if jf["difference"] is not None}
        worst = min(known, key=lambda name: known[name]["difference"] or 0.0, default=None)
        return {
            "conditions": len(self.under),
            "plain_jf": self.under[0].figures(self.under[0])["jf"]["mean"],
            "mean_difference": fmean(jf["difference"] or 0.0 for jf in known.values()) if known else None,
            "worst": worst,
            "worst_jf": None if worst is None else known[worst]["mean"],
            "worst_difference": None if worst is None else known[worst]["difference"],
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "model_version": self.model_version,
            "clips": self.clips,
            "headline": self.headline(),
            "conditions": [
                {
                    **asdict(u.condition),
                    "asked": len(u.answers),
                    "figures": u.figures(self.under[0]),
                    "seconds": _seconds(u),
                    "answers": [a.to_json() for a in u.answers],
                }
                for u in self.under
            ],
        }


def named(names: str) -> list[Condition]:
    """The conditions of a list such as "noise,blur", or "all", in the order of CONDITIONS; plain is always included.

    Raises:
        InputError: unknown condition.
    """
    known = {c.name: c for c in CONDITIONS}
    wanted = set(known) if names == "all" else {name.strip() for name in names.split(",")}
    if unknown := sorted(wanted - set(known)):
        raise InputError(f"There is no condition {', '.join(unknown)}.", f"Known are {', '.join(known)}.")
    return [c for c in CONDITIONS if c.name in wanted or c is PLAIN]


def evaluate_conditions(
    engine: Engine,
    conditions: Sequence[Condition] = CONDITIONS,
    *,
    split: Split = "test",
    count: int = 8,
    seed: int = 0,
    height: int = 240,
    per_kind: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Evaluates an engine on `count` scenes under each condition, through mp4 files.

    If a condition changes the scene itself, instructions that may no longer be true are left out for it. Differences
    are between answers to the same instruction.

    Args:
        engine: any.
        conditions: the first one is the baseline of the others.
        split, count, seed, per_kind: as for `evaluate`, with the same instructions.
        height: rows of the clips, unless the condition sets its own.
        progress: called with (clips done, clips in all).
    """
    found = Comparison(f"shapes:{split}", engine.spec.model_version, count, [ConditionResult(c) for c in conditions])
    evaluator = ShapesEvaluator(engine, ShapesDataset(split, count, seed, height, per_kind))
    with tempfile.TemporaryDirectory(prefix="trajseg-") as folder:
        for number in range(count):
            scene = sample_scene(seed + number, split)
            asked = instructions(scene, random.Random(scene.seed), limit_per_kind=per_kind)
            scenes = {c: c.changed(scene) for c in conditions}
            true = {c: _still_true(asked, scene, scenes[c]) for c in conditions}
            picturable = [a for a in asked if a.targets and all(a in left for left in true.values())]
            picturing = found.pictured is None and bool(picturable)
            share = 0.5
            for place, under in enumerate(found.under):
                condition = under.condition
                path = Path(folder) / condition.name / f"{split}-{scene.seed:06d}.mp4"
                clip, ids = write_scene(scenes[condition], path, height, condition)
                scored = ScoredClip(number, annotate(scenes[condition], clip, ids, asked=true[condition]))
                answers = {
                    one: evaluator.ask(scored, expression)
                    for one, expression in zip(true[condition], scored.annotated.expressions, strict=True)
                }
                under.answers += answers.values()
                if picturing:
                    if place == 0:
                        found.pictured = max(picturable, key=lambda one: answers[one].score.j)
                    assert found.pictured is not None
                    truth = np.isin(ids, [k + 1 for k in found.pictured.targets])
                    if place == 0:
                        share = _clearest(truth)
                    under.shown = _show(clip, truth, answers[found.pictured], share)
                clip.path.unlink()
                if progress:
                    progress(number * len(conditions) + place + 1, count * len(conditions))
    return found


def _still_true(asked: list[Instruction], scene: Scene, changed: Scene) -> list[Instruction]:
    if changed is scene:
        return asked
    facts = Facts(changed)
    return [one for one in asked if still_true(one, facts)]


def _clearest(truth: np.ndarray) -> float:
    """Position in the clip, 0 to 1, with the largest visible target; the one nearest to the middle in case of ties."""
    shares = np.linspace(0, 1, len(truth))
    return float(shares[np.argmax(truth.mean(axis=(1, 2)) - 1e-4 * np.abs(shares - 0.5))])


def _show(clip: Clip, truth: np.ndarray, answer: ShapesAnswer, share: float) -> PicturedFrame:
    index = round(share * (len(clip) - 1))
    frame = dict(clip.frames([index]))[index]
    masks = [masks_of(track, truth.shape)[index] for track in answer.result.tracks]
    mask = np.any(masks, axis=0) if masks else np.zeros(truth.shape[1:], bool)
    return PicturedFrame(frame, truth[index], mask, len(clip), answer.score.j)


def _seconds(under: ConditionResult) -> float | None:
    return fmean(a.seconds for a in under.answers) if under.answers else None


def print_comparison(found: Comparison) -> None:
    """Prints a row per condition: means, and differences to plain with their standard errors."""
    table = Table(title=f"{found.model_version} on {found.clips} clips of {found.data}: figure, difference to plain")
    table.add_column("condition", no_wrap=True)
    table.add_column("asked", justify="right")
    for heading, _ in FIGURES.values():
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("seconds", justify="right")
    plain = found.under[0]
    for under in found.under:
        cells = [_cell(**figure, alone=under is plain) for figure in under.figures(plain).values()]
        seconds = _seconds(under)
        table.add_row(
            under.condition.name,
            str(len(under.answers)),
            *cells,
            "" if seconds is None else f"{seconds:.1f}",
            style="bold" if under is plain else None,
        )
    Console(width=160).print(table)


def _cell(mean: float | None, difference: float | None, error: float | None, alone: bool) -> str:
    if mean is None:
        return ""
    if alone or difference is None:
        return f"{mean:.2f}"
    return f"{mean:.2f} {difference:+.2f}" + ("" if error is None else f" ±{error:.2f}".replace("0.", "."))


def draw_conditions(found: Comparison, path: Path) -> Path:
    """Draws the same moment of the first clip under each condition, with truth (white) and answer (pink) outlined."""
    lines: list[list[Image.Image]] = [[]]
    for under in found.under:
        cell = _picture(under)
        if lines[-1] and sum(c.width + _GAP for c in lines[-1]) + cell.width > _WIDTH:
            lines.append([])
        lines[-1].append(cell)
    tall = _ROWS + _CAPTION + _GAP
    sheet = Image.new("RGB", (_WIDTH + 2 * _GAP, len(lines) * tall + 40), _PAPER)
    text = found.pictured.text if found.pictured else "no instruction is true under all conditions"
    ImageDraw.Draw(sheet).text((_GAP, 10), f'{found.model_version}: "{text}"', _INK, ImageFont.load_default(16))
    for row, line in enumerate(lines):
        left = _GAP
        for cell in line:
            sheet.paste(cell, (left, 40 + row * tall))
            left += cell.width + _GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def _picture(under: ConditionResult) -> Image.Image:
    shown = under.shown
    if shown is None:
        return Image.new("RGB", (_ROWS, _ROWS + _CAPTION), _PAPER)
    width = round(_ROWS * shown.frame.shape[1] / shown.frame.shape[0])
    # Twice the size, for thin lines; nothing is filled, so colours stay visible.
    size = (2 * width, 2 * _ROWS)
    picture = np.asarray(Image.fromarray(shown.frame).resize(size, Image.Resampling.LANCZOS)).copy()
    mask, truth = (
        cv2.resize(m.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) for m in (shown.mask, shown.truth)
    )
    for drawn, colour, line in ((truth, (255, 255, 255), 3), (mask, _MARK, 5)):
        contours, _ = cv2.findContours(drawn, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        if drawn is truth:
            cv2.drawContours(picture, contours, -1, (0, 0, 0), line + 4, cv2.LINE_AA)
        cv2.drawContours(picture, contours, -1, colour, line, cv2.LINE_AA)
    cell = Image.new("RGB", (max(width, _ROWS), _ROWS + _CAPTION), _PAPER)
    cell.paste(Image.fromarray(picture).resize((width, _ROWS), Image.Resampling.LANCZOS), (0, 0))
    pen = ImageDraw.Draw(cell)
    title = f"{under.condition.name}: J {shown.j:.2f}, {shown.frames} frames"
    pen.text((0, _ROWS + 3), title, _INK, ImageFont.load_default(14))
    pen.text((0, _ROWS + 21), under.condition.shows, _FAINT, ImageFont.load_default(13))
    return cell


def report(
    engine: Engine,
    dataset: ShapesDataset,
    names: str,
    json_path: Path | None,
    picture: Path | None,
) -> None:
    """Prints the output of `trajseg evaluate --conditions`: a table, and the headline as JSON in the last line."""
    conditions = named(names)
    with progress_bar(f"{engine.spec.model_version}: conditions") as progress:
        found = evaluate_conditions(
            engine,
            conditions,
            split=dataset.split,
            count=dataset.count,
            seed=dataset.seed,
            height=dataset.height,
            per_kind=dataset.per_kind,
            progress=progress,
        )
    print_comparison(found)
    if json_path is not None:
        write_json(json_path, found.to_json())
    if picture is not None:
        draw_conditions(found, picture)
    headline = found.headline()
    click.echo(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in headline.items()}))
