"""How an evaluation is shown: a progress bar, a table, figures in a file, and a picture of best, median and worst."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from trajseg.pictures.palette import palette, rgb
from trajseg.shapes.evaluation.captions import PARTS, caption_figures
from trajseg.shapes.evaluation.contradictions import contradiction_figures
from trajseg.shapes.evaluation.evaluation import CATEGORIES, Answer, Evaluation
from trajseg.shapes.world.render import render
from trajseg.shapes.world.scenes import bin_centres, sample_scene

COLUMNS = {
    "count": "asked",
    "jf": "J&F",
    "j": "J",
    "f": "F",
    "matched_jf": "J&F matched",
    "right_object": "right object",
    "j_of_right": "J of right",
    "named_right": "named right",
    "ghosts": "ghosts",
    "missed": "missed",
    "empty": "no mask",
    "avg_iou": "steady",
    "avg_iou_truth": "truth steady",
    "seconds": "seconds",
    "gflops": "GFLOPs",
}
_SHOWN_FRAMES, _FRAME_HEIGHT = 6, 150
_PAPER, _INK, _FAINT = (250, 250, 248), (40, 40, 44), (130, 130, 136)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr; gives the function to call with (clips done, clips in all)."""
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def write_figures(path: Path | None, figures: Any) -> None:
    """Writes JSON where a path is given; its folder is made."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def print_table(found: Evaluation) -> None:
    """Categories and kinds with their figures, then captions and contradictions if there are any, on stdout."""
    table = Table(title=f"{found.model_version} on {found.clips} clips of {found.data}, {found.height} rows")
    table.add_column("instructions", no_wrap=True)
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right")
    for row in found.table():
        name = row["category"] if row["kind"] is None else f"  {row['kind']}"
        cells = [
            "" if row[key] is None else f"{row[key]:d}" if key == "count" else f"{row[key]:.3f}" for key in COLUMNS
        ]
        table.add_row(name, *cells, style="bold" if row["kind"] is None else None)
    console = Console(width=172)
    console.print(table)
    captions = caption_figures(found.described)
    if captions:
        parts = Table("objects", "all right", *PARTS, "seconds", title="Captions of true tracks")
        parts.add_row(
            f"{captions['objects']:.0f}",
            *(f"{captions[name]:.3f}" for name in ("right", *PARTS, "seconds")),
        )
        console.print(parts)
    contradictions = contradiction_figures(found.compared)
    if contradictions:
        rows = Table("figure", "value", title="Captions that are taken for contradictions")
        for name, value in contradictions.items():
            rows.add_row(name, f"{value:g}" if name == "captions" else f"{value:.3f}")
        console.print(rows)


def draw_picture(found: Evaluation, path: Path) -> Path:
    """One PNG: for each category with targets its best, median and worst answer; truth outlined in white."""
    strips = []
    for category in CATEGORIES:
        answers = sorted((a for a in found.of(category=category) if a.asked.targets), key=lambda a: -a.score.jf)
        if answers:
            chosen = {"best": answers[0], "median": answers[len(answers) // 2], "worst": answers[-1]}
            strips += [_strip(a, f"{category}, {which}", found) for which, a in chosen.items()]
    if not strips:
        strips = [Image.new("RGB", (400, 40), _PAPER)]
    sheet = Image.new("RGB", (max(s.width for s in strips) + 24, sum(s.height for s in strips) + 24), _PAPER)
    top = 12
    for strip in strips:
        sheet.paste(strip, (12, top))
        top += strip.height
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def _strip(answer: Answer, title: str, found: Evaluation) -> Image.Image:
    scene = sample_scene(answer.seed, found.data.partition(":")[2])  # type: ignore[arg-type]
    index = bin_centres(scene.frame_count, _SHOWN_FRAMES)
    frames, ids = render(scene, found.height, index.tolist())
    truth = np.isin(ids, [k + 1 for k in answer.asked.targets])
    width = round(scene.aspect * _FRAME_HEIGHT)
    strip = Image.new("RGB", (max(900, _SHOWN_FRAMES * (width + 4)), _FRAME_HEIGHT + 58), _PAPER)
    pen = ImageDraw.Draw(strip)
    pen.text((0, 0), f"{title}: J&F {answer.score.jf:.2f}", _INK, ImageFont.load_default(14))
    pen.text((220, 0), f"{answer.asked.text}   ->   {answer.result.answer}", _FAINT, ImageFont.load_default(14))
    for column, t in enumerate(index.tolist()):
        picture = _marked(frames[column], truth[column], answer, t)
        shown = Image.fromarray(picture).resize((width, _FRAME_HEIGHT), Image.Resampling.LANCZOS)
        strip.paste(shown, (column * (width + 4), 22))
    return strip


def _marked(frame: np.ndarray, truth: np.ndarray, answer: Answer, t: int) -> np.ndarray:
    """The frame with the tracks painted over it and the truth outlined, at twice the size."""
    size = (2 * frame.shape[1], 2 * frame.shape[0])
    picture = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
    stripe = np.add.outer(np.arange(size[1]), np.arange(size[0])) % 14
    for track, colour in zip(answer.result.tracks, palette(len(answer.result.tracks)), strict=True):
        mask = track.mask(t, frame.shape[:2])[: frame.shape[0], : frame.shape[1]]
        painted = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        # Hatched with black: a plain colour would be lost on an object of the same colour.
        picture[painted & (stripe < 5)] = rgb(colour)
        picture[painted & (stripe >= 9)] = 0
    outline = cv2.resize(truth.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(outline, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, (0, 0, 0), 4, cv2.LINE_AA)
    cv2.drawContours(picture, contours, -1, (255, 255, 255), 2, cv2.LINE_AA)
    return picture
