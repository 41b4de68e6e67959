"""Presentation of an evaluation: a table, and a picture of best, median and worst answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from trajseg.data.dataset import AnnotatedClip, Dataset
from trajseg.evaluation.answers import Answer
from trajseg.evaluation.evaluation import Evaluation
from trajseg.files import whole_file
from trajseg.palette import palette, rgb
from trajseg.video.spacing import bin_centres

_SHOWN_FRAMES, _FRAME_HEIGHT = 6, 150
_PAPER, _INK, _FAINT = (250, 250, 248), (40, 40, 44), (130, 130, 136)


def print_evaluation(evaluation: Evaluation) -> None:
    """Prints categories and kinds with their results on stdout, then any further tables."""
    table = Table(title=f"{evaluation.model_version} on {evaluation.clips} clips of {evaluation.data}")
    table.add_column("instructions", no_wrap=True)
    for heading in evaluation.COLUMNS.values():
        table.add_column(heading, justify="right")
    for row in evaluation.table():
        name = row["category"] if row["kind"] is None else f"  {row['kind']}"
        cells = [
            "" if row[key] is None else f"{row[key]:d}" if key == "count" else f"{row[key]:.3f}"
            for key in evaluation.COLUMNS
        ]
        table.add_row(name, *cells, style="bold" if row["kind"] is None else None)
    console = Console(width=172)
    for each in (table, *evaluation.more_tables()):
        console.print(each)


def draw_evaluation(evaluation: Evaluation, dataset: Dataset, path: Path) -> Path:
    """One PNG: for each category with targets its best, median and worst answer; ground truth outlined in white.

    Frames and masks are read again from the data set.
    """
    strips = []
    for category, _ in evaluation.groups():
        answers = sorted((a for a in evaluation.of(category=category) if a.asked.targets), key=lambda a: -a.score.jf)
        if answers:
            chosen = {"best": answers[0], "median": answers[len(answers) // 2], "worst": answers[-1]}
            strips += [answer_strip(a, dataset[a.number], f"{category}, {which}") for which, a in chosen.items()]
    return save_strips(strips, path)


def save_strips(strips: Sequence[Image.Image], path: Path) -> Path:
    """Writes strips one below the other as one PNG."""
    if not strips:
        strips = [Image.new("RGB", (400, 40), _PAPER)]
    sheet = Image.new("RGB", (max(s.width for s in strips) + 24, sum(s.height for s in strips) + 24), _PAPER)
    top = 12
    for strip in strips:
        sheet.paste(strip, (12, top))
        top += strip.height
    with whole_file(path) as unfinished:
        sheet.save(unfinished, format="PNG")
    return path


def answer_strip(answer: Answer, annotated: AnnotatedClip, title: str) -> Image.Image:
    """Frames across a clip with an answer's tracks hatched and the ground truth outlined; text and J&F above."""
    clip, scored = annotated.clip, annotated.scored
    shown = sorted({scored[place] for place in bin_centres(len(scored), _SHOWN_FRAMES)})
    truth: np.ndarray = np.any(annotated.masks(answer.asked.targets, shown), axis=0)
    width = round(clip.width / clip.height * _FRAME_HEIGHT)
    strip = Image.new("RGB", (max(900, len(shown) * (width + 4)), _FRAME_HEIGHT + 58), _PAPER)
    pen = ImageDraw.Draw(strip)
    font, heading = ImageFont.load_default(14), f"{title}: J&F {answer.score.jf:.2f}"
    pen.text((0, 0), heading, _INK, font)
    words = f"{answer.asked.text}   ->   {answer.result.plain_answer}"
    pen.text((max(220, round(pen.textlength(heading, font)) + 16), 0), words, _FAINT, font)
    for column, (index, frame) in enumerate(clip.frames(shown)):
        picture = Image.fromarray(_marked(frame, truth[column], answer, index))
        strip.paste(picture.resize((width, _FRAME_HEIGHT), Image.Resampling.LANCZOS), (column * (width + 4), 22))
    return strip


def _marked(frame: np.ndarray, truth: np.ndarray, answer: Answer, index: int) -> np.ndarray:
    """The frame with the tracks painted over it and the ground truth outlined, at twice the displayed size."""
    height = 2 * _FRAME_HEIGHT
    size = (round(frame.shape[1] / frame.shape[0] * height), height)
    picture = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if frame.shape[0] > height else cv2.INTER_LINEAR)
    stripe = np.add.outer(np.arange(size[1]), np.arange(size[0])) % 14
    for track, colour in zip(answer.result.tracks, palette(len(answer.result.tracks)), strict=True):
        mask = track.mask(index, frame.shape[:2])
        painted = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        # Hatched with black: a plain colour would be invisible on an object of the same colour.
        picture[painted & (stripe < 5)] = rgb(colour)
        picture[painted & (stripe >= 9)] = 0
    outline = cv2.resize(truth.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(outline, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, (0, 0, 0), 4, cv2.LINE_AA)
    cv2.drawContours(picture, contours, -1, (255, 255, 255), 2, cv2.LINE_AA)
    return picture
