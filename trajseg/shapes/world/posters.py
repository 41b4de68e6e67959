"""A third renderer of the same scenes: rotated neon shapes over saturated, blurred, drifting backgrounds.

It shares no code with trajseg.shapes.world.render or painter: shapes are distance functions on the pixel grid. The
recipe of trajseg-tiny does not use it. It simulates a project whose videos look unlike the base model's training data.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from trajseg.shapes.world.scenes import Scene, SceneObject

HUES = {
    "red": (0.985, 0.95, 0.98),
    "green": (0.38, 1.0, 0.85),
    "blue": (0.625, 0.85, 1.0),
    "yellow": (0.155, 0.75, 1.0),
    "purple": (0.79, 0.75, 0.9),
    "orange": (0.065, 0.9, 1.0),
    "cyan": (0.5, 0.6, 1.0),
    "white": (0.6, 0.03, 1.0),
}
"""Hue, saturation and value per colour name, 0 to 1."""

_CELLS = 5
"""Number of background colours along the height, before blurring."""
_BLUR = 0.03
_DEPTH = 0.6
"""How much darker an object's lower edge is than its upper one."""
_RIM, _RIM_LIGHT = 0.16, 0.95
"""Width, in radii, and strength of the light rim inside an object's edge."""


def posters(scene: Scene, height: int, indices: Sequence[int] | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draws the frames `indices` (0-based; None means all), one at a time.

    The scene's `look` is used only as a seed. An object is rotated by a random angle, the same in all frames.

    Yields:
        frame uint8 [H, W, 3] RGB with W = round(aspect * H), and ids uint8 [H, W]: 0 for background, k + 1 where object
        k is visible (it covers at least half of the pixel, and no object in front does).
    """
    width = round(scene.aspect * height)
    background, path = _background(scene, height, width)
    order = sorted(range(len(scene.objects)), key=lambda k: scene.objects[k].depth)
    for t in range(scene.frame_count) if indices is None else indices:
        y, x = path[t]
        canvas = background[y : y + height, x : x + width].copy()
        ids = np.zeros((height, width), np.uint8)
        for k in order:
            thing = scene.objects[k]
            if thing.first <= t <= thing.last:
                _put(canvas, ids, k, thing, (thing.centres[t] + scene.drift[t]) * height, height)
        yield np.clip(canvas * 255, 0, 255).round().astype(np.uint8), ids


def _background(scene: Scene, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Background float32 [H', W', 3] in 0..1, larger than the picture, and each frame's corner in it, int [T, 2]."""
    rng = np.random.default_rng([scene.look.seed, 77])
    reach = max(2, round(0.12 * height))
    rows, cols = height + reach, width + reach
    cells = (_CELLS, max(2, round(_CELLS * scene.aspect)))
    base = rng.random()
    colours = [
        colorsys.hsv_to_rgb((base + rng.normal(0, 0.16)) % 1, rng.uniform(0.6, 1.0), rng.uniform(0.25, 0.8))
        for _ in range(cells[0] * cells[1])
    ]
    grid = np.array(colours, np.float32).reshape(*cells, 3)
    large = zoom(grid, (rows / cells[0], cols / cells[1], 1), order=0)[:rows, :cols]
    blurred = gaussian_filter(large, (_BLUR * height, _BLUR * height, 0), mode="nearest")
    start, end = rng.integers(0, reach + 1, 2), rng.integers(0, reach + 1, 2)
    share = np.linspace(0, 1, scene.frame_count)[:, None]
    path = np.round(start + (end - start) * share).astype(int)
    return blurred.astype(np.float32), np.minimum(path, (blurred.shape[0] - height, blurred.shape[1] - width))


def _put(canvas: np.ndarray, ids: np.ndarray, k: int, thing: SceneObject, centre: np.ndarray, height: int) -> None:
    """Draws one object in place; `centre` (x, y) in pixels."""
    radius = thing.radius * height
    reach = math.ceil(1.45 * radius) + 2
    x0, x1 = max(0, math.floor(centre[0]) - reach), min(ids.shape[1], math.ceil(centre[0]) + reach)
    y0, y1 = max(0, math.floor(centre[1]) - reach), min(ids.shape[0], math.ceil(centre[1]) + reach)
    if x0 >= x1 or y0 >= y1:
        return
    y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32) + 0.5
    turn = thing.texture_seed % 3600 / 3600 * 2 * math.pi
    across, down = (x - centre[0]) / radius, (y - centre[1]) / radius
    u = across * math.cos(turn) + down * math.sin(turn)
    v = down * math.cos(turn) - across * math.sin(turn)
    distance = _distance(thing.shape, u, v)
    coverage = np.clip(0.5 - distance * radius, 0, 1)[..., None]
    shade = 1 - _DEPTH * np.clip(0.5 + down / 2, 0, 1)
    colour = np.array(colorsys.hsv_to_rgb(*HUES[thing.colour]), np.float32) * shade[..., None]
    rim = _RIM_LIGHT * np.exp(-np.square((distance + _RIM) / (_RIM / 2)))[..., None]
    colour += (1 - colour) * rim
    area = (slice(y0, y1), slice(x0, x1))
    canvas[area] += coverage * (colour - canvas[area])
    ids[area][coverage[..., 0] >= 0.5] = k + 1


def _distance(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance to a shape's edge in radii, negative inside; exact near straight edges, otherwise approximate."""
    from_centre = np.hypot(u, v)
    if shape == "circle":
        return from_centre - 1.0
    if shape == "square":
        return np.maximum(abs(u), abs(v)) - 0.88
    if shape == "triangle":
        sides = [u * math.cos(a) + v * math.sin(a) for a in (math.pi / 2 + np.arange(3) * 2 * math.pi / 3)]
        return np.max(sides, axis=0) - 0.68
    if shape == "ring":
        return abs(from_centre - 0.82) - 0.25
    if shape == "cross":
        wide, tall = np.maximum(abs(u) - 1.1, abs(v) - 0.37), np.maximum(abs(v) - 1.1, abs(u) - 0.37)
        return np.minimum(wide, tall)
    if shape == "star":
        # In one tenth of the star, the edge is a straight line from a tip to a notch.
        angle = np.abs((np.arctan2(u, -v) + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5)
        px, py = from_centre * np.sin(angle), from_centre * np.cos(angle)
        tip, notch = (0.0, 1.3), (0.56 * math.sin(math.pi / 5), 0.56 * math.cos(math.pi / 5))
        along = (notch[0] - tip[0], notch[1] - tip[1])
        length = math.hypot(*along)
        return -(along[0] * (py - tip[1]) - along[1] * (px - tip[0])) / length * -1
    raise ValueError(shape)
