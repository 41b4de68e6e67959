"""A contact sheet of shapes clips: sampled frames with outlined masks, instructions and targets."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trajseg.shapes.world.facts import Facts
from trajseg.shapes.world.language import instructions, reference_caption
from trajseg.shapes.world.render import render
from trajseg.shapes.world.scenes import Scene, bin_centres

_TAGS = ((255, 64, 129), (0, 200, 120), (80, 160, 255), (255, 190, 0), (190, 110, 255))
_PAPER, _INK, _FAINT = (250, 250, 248), (40, 40, 44), (130, 130, 136)
_GAP, _LINE = 14, 19


def draw_sheet(scenes: Sequence[Scene], path: str | Path, frame_height: int = 150) -> Path:
    """Writes one PNG with a block per scene: 8 frames, captions, and two instructions of each kind."""
    blocks = [_block(scene, frame_height) for scene in scenes]
    width = max(b.width for b in blocks) + 2 * _GAP
    sheet = Image.new("RGB", (width, sum(b.height + _GAP for b in blocks) + _GAP), _PAPER)
    top = _GAP
    for block in blocks:
        sheet.paste(block, (_GAP, top))
        top += block.height + _GAP
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target)
    return target


def outlined(frame: np.ndarray, ids: np.ndarray, line: int = 1) -> np.ndarray:
    """A copy of `frame` uint8 [H, W, 3] with the outline of each object of `ids` [H, W] in its tag colour."""
    picture = np.ascontiguousarray(frame.copy())
    for k in np.unique(ids[ids > 0]).tolist():
        contours, _ = cv2.findContours((ids == k).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, contours, -1, _TAGS[(k - 1) % len(_TAGS)], line, cv2.LINE_AA)
    return picture


def _block(scene: Scene, frame_height: int) -> Image.Image:
    index = bin_centres(scene.frame_count)
    facts = Facts(scene)
    frames, ids = render(scene, 2 * frame_height, index.tolist())
    strip_width = 8 * (round(scene.aspect * frame_height) + 4)
    asked = instructions(scene, random.Random(scene.seed), facts=facts)
    rows = (len(asked) + 1) // 2
    width = max(strip_width, 8 * (round(4 / 3 * frame_height) + 4))
    height = 24 + frame_height + 8 + _LINE * (len(scene.objects) + rows) + 12
    block = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(block)
    font, bold = ImageFont.load_default(13), ImageFont.load_default(14)
    title = f"{scene.split} {scene.seed}   {scene.frame_count} frames at {scene.fps:g} a second"
    pen.text((0, 2), title, _FAINT, bold)
    for i in range(len(index)):
        picture = Image.fromarray(outlined(frames[i], ids[i], 2)).resize(
            (round(scene.aspect * frame_height), frame_height), Image.Resampling.LANCZOS
        )
        block.paste(picture, (i * (picture.width + 4), 24))
    y = 24 + frame_height + 8
    for k in range(len(scene.objects)):
        _tag(pen, (0, y), k, font)
        pen.text((24, y), reference_caption(scene, k, facts), _INK, font)
        y += _LINE
    y += 4
    for n, instruction in enumerate(asked):
        x, line = (n // rows) * (width // 2), y + (n % rows) * _LINE
        pen.text((x, line), instruction.kind, _FAINT, font)
        left = x + 92
        for k in instruction.targets:
            _tag(pen, (left, line), k, font)
            left += 19
        if not instruction.targets:
            pen.text((left + 2, line), "none", _FAINT, font)
            left += 36
        pen.text((left + 4, line), instruction.text, _INK, font)
    return block


def _tag(
    pen: ImageDraw.ImageDraw, at: tuple[int, int], k: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> None:
    pen.rounded_rectangle((at[0], at[1] + 1, at[0] + 16, at[1] + 16), 4, fill=_TAGS[k % len(_TAGS)])
    pen.text((at[0] + 8, at[1] + 8), str(k + 1), (255, 255, 255), font, anchor="mm")
