"""A second renderer of the same scenes: shaded and outlined shapes with shadows, on other backgrounds.

It shares no code with trajseg.shapes.world.render; it draws its own outlines with Pillow at eight times the size. Its
pictures are never used for training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from trajseg.shapes.world.scenes import Scene, SceneObject

TONES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((196, 24, 48), (226, 58, 52), (170, 30, 30)),
    "green": ((28, 132, 84), (96, 176, 58), (30, 110, 40)),
    "blue": ((30, 58, 160), (72, 112, 236), (50, 50, 190)),
    "yellow": ((248, 206, 28), (236, 234, 96), (214, 196, 30)),
    "purple": ((112, 40, 148), (164, 84, 204), (132, 36, 140)),
    "orange": ((238, 116, 44), (232, 142, 40), (250, 150, 62)),
    "cyan": ((38, 186, 204), (112, 224, 232), (30, 200, 190)),
    "white": ((230, 228, 220), (250, 250, 255), (236, 240, 246)),
}
"""Three RGB tones per colour name, all different from the renderer's; an object has the same tone in all frames."""

_FINE = 8
_LIGHT = (1.12, 0.74)
_SHADOW, _SHADOW_OFFSET, _SHADOW_BLUR = 0.45, 0.022, 0.012
_LINE, _LINE_SHADE = 0.008, 0.5
_SWAY = 0.3
"""Amplitude of a turning object's sway, in radians."""


def painted(
    scene: Scene, height: int, indices: Sequence[int] | None = None, *, turning: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draws the frames `indices` (0-based; None means all), one at a time.

    The scene's `look` is ignored, except as a seed: background, blur, noise and JPEG.

    Args:
        turning: moving objects also sway about their centre. Still objects do not, so that "still" remains true.

    Yields:
        frame uint8 [H, W, 3] RGB with W = round(aspect * H), and ids uint8 [H, W]: 0 for background, k + 1 where object
        k is visible (it covers at least half of the pixel, and no object in front does). Outlines belong to their
        object, shadows to none.
    """
    width = round(scene.aspect * height)
    margin = math.ceil(0.03 * height) + 2
    background = _background(scene, height + 2 * margin, width + 2 * margin, height)
    order = sorted(range(len(scene.objects)), key=lambda k: scene.objects[k].depth)
    lit = [_lit(o, height) for o in scene.objects]
    for t in range(scene.frame_count) if indices is None else indices:
        dx, dy = (float(d) * height for d in scene.drift[t])
        frame = background.transform(
            (width, height), Image.Transform.AFFINE, (1, 0, margin - dx, 0, 1, margin - dy), Image.Resampling.BILINEAR
        )
        ids = np.zeros((height, width), np.uint8)
        for k in order:
            o = scene.objects[k]
            if not o.first <= t <= o.last:
                continue
            x, y = ((o.centres[t] + scene.drift[t]) * height).tolist()
            angle = o.angle + (_sway(o, t / max(1, scene.frame_count - 1)) if turning else 0.0)
            _put(frame, ids, k, _stamp(o, (x, y), angle, height), lit[k], height)
        yield np.asarray(frame).copy(), ids


def _sway(o: SceneObject, share: float) -> float:
    if o.motion == "still":
        return 0.0
    start, cycles = o.texture_seed % 1000 / 1000, 1 + o.texture_seed % 3 / 2
    return _SWAY * math.sin(2 * math.pi * (start + cycles * share))


@dataclass(frozen=True)
class _Stamp:
    """An object's coverage and outline as grey pictures, with their position in the frame."""

    left: int
    top: int
    coverage: Image.Image
    line: Image.Image


def _stamp(o: SceneObject, centre: tuple[float, float], angle: float, height: int) -> _Stamp:
    """`centre` (x, y) in pixels; the first pixel extends from 0 to 1."""
    reach = _reach(o, height)
    left, top = math.floor(centre[0]) - reach, math.floor(centre[1]) - reach
    side = 2 * reach + 2
    fine = Image.new("L", (side * _FINE, side * _FINE))
    edge = fine.copy()
    radius = o.radius * height * _FINE
    # The centre of the first pixel is at 0 in Pillow, and at 0.5 here.
    at = ((centre[0] - left) * _FINE - 0.5, (centre[1] - top) * _FINE - 0.5)
    thick = max(2, round(2 * _LINE * height * _FINE))
    pen, line = ImageDraw.Draw(fine), ImageDraw.Draw(edge)
    for contour, inside in _contours(o.shape):
        if isinstance(contour, float):
            r = contour * radius
            pen.ellipse((at[0] - r, at[1] - r, at[0] + r, at[1] + r), fill=0 if inside else 255)
            r += thick / 2
            line.ellipse((at[0] - r, at[1] - r, at[0] + r, at[1] + r), outline=255, width=thick)
        else:
            c, s = math.cos(angle), math.sin(angle)
            points = [(at[0] + radius * (c * x - s * y), at[1] + radius * (s * x + c * y)) for x, y in contour]
            pen.polygon(points, fill=255)
            line.line([*points, *points[:2]], fill=255, width=thick, joint="curve")
    return _Stamp(left, top, fine.reduce(_FINE), edge.reduce(_FINE))


def _contours(shape: str) -> list[tuple[float | list[tuple[float, float]], bool]]:
    """Circles as a radius, polygons as corners, for an object of radius 1; and whether the contour is a hole."""

    def around(corners: int, *radii: float, first: float = -90.0) -> list[tuple[float, float]]:
        turns = [math.radians(first + 360 * i / corners) for i in range(corners)]
        return [(radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a)) for i, a in enumerate(turns)]

    if shape == "circle":
        return [(1.0, False)]
    if shape == "ring":
        return [(1.05, False), (0.56, True)]
    if shape == "square":
        return [(around(4, 1.25, first=45.0), False)]
    if shape == "triangle":
        return [(around(3, 1.3), False)]
    if shape == "star":
        return [(around(10, 1.3, 0.56), False)]
    arm, half = 1.12, 0.38
    quarter = [(half, -arm), (half, -half), (arm, -half)]
    corners = quarter
    for _ in range(3):
        quarter = [(-y, x) for x, y in quarter]
        corners = corners + quarter
    return [(corners, False)]


def _reach(o: SceneObject, height: int) -> int:
    """Pixels from the centre of an object to the edge of its stamp."""
    return math.ceil((1.32 * o.radius + _LINE) * height) + 1


def _lit(o: SceneObject, height: int) -> Image.Image:
    """The object's tone, lit from the upper left, with a checkered texture if it is textured: RGB."""
    side = 2 * _reach(o, height) + 2
    y, x = np.mgrid[:side, :side] / side
    shade = _LIGHT[0] + (_LIGHT[1] - _LIGHT[0]) * (0.4 * x + 0.6 * y)
    if o.textured:
        rows, columns = np.mgrid[:side, :side] // max(2, round(0.02 * height))
        shade = shade * np.where((rows + columns) % 2, 1.0, 0.8)
    tone = np.array(TONES[o.colour][o.texture_seed % 3], float)
    return Image.fromarray(np.clip(tone * shade[..., None], 0, 255).round().astype(np.uint8))


def _put(frame: Image.Image, ids: np.ndarray, k: int, stamp: _Stamp, lit: Image.Image, height: int) -> None:
    """Draws shadow, object and outline into the frame, in place, clipped to the picture."""
    spread = math.ceil(3 * _SHADOW_BLUR * height)
    side = stamp.coverage.width
    shadow = Image.new("L", (side + 2 * spread,) * 2)
    shadow.paste(stamp.coverage, (spread, spread))
    shadow = shadow.filter(ImageFilter.GaussianBlur(_SHADOW_BLUR * height)).point(lambda v: round(_SHADOW * v))
    offset = round(_SHADOW_OFFSET * height) - spread
    frame.paste((0, 0, 0), (stamp.left + offset, stamp.top + offset), shadow)
    dark = lit.point(lambda v: round(_LINE_SHADE * v))
    frame.paste(Image.composite(dark, lit, stamp.line), (stamp.left, stamp.top), stamp.coverage)
    rows, columns = ids.shape
    left, top = max(0, -stamp.left), max(0, -stamp.top)
    right, bottom = min(side, columns - stamp.left), min(side, rows - stamp.top)
    if left < right and top < bottom:
        covered = np.asarray(stamp.coverage)[top:bottom, left:right] >= 128
        ids[stamp.top + top : stamp.top + bottom, stamp.left + left : stamp.left + right][covered] = k + 1


def _background(scene: Scene, rows: int, cols: int, height: int) -> Image.Image:
    """Clouds (power falling with frequency, as in photographs), stripes, or a checkerboard, in muted colours."""
    rng = np.random.default_rng(scene.look.seed + 2)
    grey = rng.uniform(60, 130)
    first, second = (
        np.clip(grey * (1 + d * rng.uniform(0.14, 0.3) + rng.uniform(-0.1, 0.1, 3)), 25, 165) for d in (-1, 1)
    )
    y, x = np.mgrid[:rows, :cols] / height
    kind = rng.integers(3)
    if kind == 0:
        share = _clouds(rng, rows, cols, height)
        tint = _clouds(rng, rows, cols, height)[..., None] * rng.uniform(-9, 9, 3)
        canvas = first + (second - first) * np.clip(0.5 + 0.4 * share, 0, 1)[..., None] + tint
    else:
        angle, period = rng.uniform(0, math.pi), rng.uniform(0.09, 0.2)
        along = (x * math.cos(angle) + y * math.sin(angle)) / period
        across = (y * math.cos(angle) - x * math.sin(angle)) / period
        share = np.sin(2 * np.pi * along) if kind == 1 else np.sin(np.pi * along) * np.sin(np.pi * across)
        # Edges as sharp as a pixel at 240 rows allows, without aliasing.
        canvas = first + (second - first) * np.clip(0.5 + 5 * share, 0, 1)[..., None]
    canvas = canvas * (1.1 - 0.25 * y)[..., None]
    return Image.fromarray(np.clip(canvas, 0, 255).round().astype(np.uint8))


def _clouds(rng: np.random.Generator, rows: int, cols: int, height: int) -> np.ndarray:
    """Noise float64 [rows, cols], mean 0, standard deviation 1, amplitude 1 / frequency^1.5 (cycles per height)."""
    cells = 256
    frequency = np.hypot(np.fft.fftfreq(cells)[:, None], np.fft.rfftfreq(cells)[None]) * cells
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((cells, cells))) * frequency**-1.5
    noise = np.fft.irfft2(spectrum, (cells, cells))
    # One period is two heights, wider than any picture.
    size = (2 * max(height, rows // 2 + 1, cols // 2 + 1),) * 2
    large = Image.fromarray(((noise - noise.mean()) / noise.std()).astype(np.float32)).resize(
        size, Image.Resampling.BICUBIC
    )
    return np.asarray(large)[:rows, :cols].astype(float)
