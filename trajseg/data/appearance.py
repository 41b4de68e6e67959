"""Appearance augmentation: the same objects in the same places, with random lighting, style and background.

A model that has seen only one style learns from this to recognise shapes in others. Shading, edges, texture, sharpness
and background change; shape, place, motion and the name of a colour do not, so masks and text about the clip remain
true. All frames of a clip are changed alike.
"""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from trajseg.data.extent import area_of, radius_of
from trajseg.data.samples import Sample

GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in the brightness of a pixel."""


@dataclass(frozen=True)
class Appearance:
    """Probabilities of each kind of change to a clip, 0 to 1.

    Args:
        objects: change the objects' lighting, shading, edges, pattern and texture.
        background: recolour the background, or replace it if `swap` is set.
        whole: change the picture's brightness, contrast and sharpness.
        swap: the background may be replaced. Only for clips whose objects are all known and whose text does not mention
            the background.
    """

    objects: float = 0.8
    background: float = 0.8
    whole: float = 0.6
    swap: bool = False

    def apply(self, samples: Sequence[Sample], rng: random.Random) -> list[Sample]:
        """The samples with changed frames. All samples must share one array of frames, and do so in the result."""
        frames, objects = samples[0].frames, samples[0].objects
        if objects is None:
            return list(samples)
        levels = frames.astype(np.float32) / 255
        draw = np.random.default_rng(rng.getrandbits(64))
        if draw.random() < self.background:
            _change_background(levels, objects, draw, self.swap)
        if draw.random() < self.objects:
            _change_objects(levels, objects, draw)
        if draw.random() < self.whole:
            levels = _changed_whole(levels, draw)
        changed = (np.clip(levels, 0, 1) * 255).round().astype(np.uint8)
        return [replace(sample, frames=changed) for sample in samples]


def _change_objects(levels: np.ndarray, objects: np.ndarray, rng: np.random.Generator) -> None:
    """Gives all objects of a clip the same random style, in place."""
    light = rng.uniform(0, 2 * math.pi)
    depth = rng.uniform(0, 0.6) * (rng.random() < 0.7)
    gain, saturation = rng.uniform(0.7, 1.15), rng.uniform(0.7, 1.5)
    edge = rng.uniform(-0.9, 0.95) * (rng.random() < 0.7)
    place, width = rng.uniform(0, 0.3), math.exp(rng.uniform(math.log(0.05), math.log(0.3)))
    grain = rng.uniform(0, 0.3) * (rng.random() < 0.4)
    cells = rng.integers(3, 10)
    pattern = _pattern(rng)
    gloss = rng.uniform(0.2, 0.9) * (rng.random() < 0.3)
    at, spot = rng.uniform(-0.5, 0.5, 2), rng.uniform(0.15, 0.5)
    for k in np.unique(objects[objects > 0]).tolist():
        shown = objects == k
        radius = radius_of(shown[np.count_nonzero(shown, axis=(1, 2)).argmax()])
        noise = rng.standard_normal((cells, cells)).astype(np.float32)
        own = gain * rng.uniform(0.9, 1.1)
        for picture, mask in zip(levels, shown, strict=True):
            if not mask.any():
                continue
            area = area_of(mask)
            inside = mask[area]
            inner = cv2.distanceTransform(np.pad(inside, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1] / radius
            y, x = np.mgrid[: inside.shape[0], : inside.shape[1]].astype(np.float32)
            y, x = (y - y[inside].mean()) / radius, (x - x[inside].mean()) / radius
            shade = own * (1 - depth * np.clip(0.5 + (x * math.cos(light) + y * math.sin(light)) / 2, 0, 1))
            if grain:
                cloth = cv2.resize(noise, inside.shape[::-1], interpolation=cv2.INTER_CUBIC)
                shade = shade * (1 + grain * np.tanh(cloth))
            if pattern is not None:
                shade = shade * pattern(x, y)
            colour = picture[area]
            grey = (colour @ GREY)[..., None]
            colour = (grey + saturation * (colour - grey)) * shade[..., None]
            rim = abs(edge) * np.exp(-np.square((inner - place) / width))[..., None]
            colour = colour + ((1.0 if edge > 0 else 0.0) - colour) * rim
            if gloss:
                far = np.square(x - at[0]) + np.square(y - at[1])
                colour = colour + (1 - colour) * (gloss * np.exp(-far / spot**2))[..., None]
            picture[area][inside] = np.clip(colour, 0, 1)[inside]


def _pattern(rng: np.random.Generator) -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
    """Stripes, checks or dots for all objects of a clip: offsets in radii -> a factor of brightness. None: plain."""
    if rng.random() < 0.6:
        return None
    kind, turn = rng.integers(3), rng.uniform(0, math.pi)
    period, amount, crisp = rng.uniform(0.25, 0.9), rng.uniform(0.15, 0.6), rng.uniform(1, 6)
    shift = rng.uniform(0, 2 * math.pi, 2)

    def factor(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        along = np.sin(2 * math.pi / period * (x * math.cos(turn) + y * math.sin(turn)) + shift[0])
        across = np.sin(2 * math.pi / period * (y * math.cos(turn) - x * math.sin(turn)) + shift[1])
        wave = along if kind == 0 else along * across if kind == 1 else np.minimum(along, across)
        return 1 - amount * (0.5 + 0.5 * np.tanh(crisp * wave))

    return factor


def _change_background(levels: np.ndarray, objects: np.ndarray, rng: np.random.Generator, swap: bool) -> None:
    """Recolours the background or replaces it, in place."""
    there = objects == 0
    height, width = there.shape[1:]
    if swap and rng.random() < 0.7:
        backdrop = _backdrop(height, width, rng)
        share = 1.0 if rng.random() < 0.5 else rng.uniform(0.4, 1.0)
        start, end = rng.uniform(0, 0.12 * height, (2, 2))
        for number, (picture, outside) in enumerate(zip(levels, there, strict=True)):
            y, x = np.round(start + (end - start) * number / max(1, len(levels) - 1)).astype(int)
            new = backdrop[y : y + height, x : x + width]
            picture[outside] += share * (new - picture)[outside]
        return
    saturation, contrast = rng.uniform(0.5, 3.0), rng.uniform(0.5, 1.6)
    tint, brightness = rng.uniform(-0.2, 0.2, 3).astype(np.float32), rng.uniform(0.6, 1.5)
    inverted = rng.random() < 0.2
    middle = levels[there].mean(axis=0)
    for picture, outside in zip(levels, there, strict=True):
        colour = picture[outside]
        grey = (colour @ GREY)[..., None]
        colour = grey + saturation * (colour - grey)
        colour = (middle + contrast * (colour - middle)) * brightness + tint
        picture[outside] = np.clip(1 - colour if inverted else colour, 0, 1)


def _backdrop(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A random background float32 [1.13 H, W + 0.13 H, 3], 0 to 1: patches of muted to saturated colours, sharp to
    blurred."""
    rows, columns = round(1.13 * height) + 1, width + round(0.13 * height) + 1
    high = int(rng.integers(1, 8))
    wide = max(1, round(high * width / height))
    hue, spread = rng.random(), rng.uniform(0, 0.5)
    saturated, bright = rng.uniform(0, 1), rng.uniform(0.15, 0.8)
    cells = np.array(
        [
            colorsys.hsv_to_rgb(
                (hue + rng.normal(0, spread)) % 1,
                float(np.clip(saturated + rng.normal(0, 0.2), 0, 1)),
                float(np.clip(bright + rng.normal(0, 0.2), 0, 1)),
            )
            for _ in range(high * wide)
        ],
        np.float32,
    ).reshape(high, wide, 3)
    how = cv2.INTER_NEAREST if rng.random() < 0.6 else cv2.INTER_CUBIC
    backdrop: np.ndarray = cv2.resize(cells, (columns, rows), interpolation=how)
    if rng.random() < 0.8:
        backdrop = cv2.GaussianBlur(backdrop, (0, 0), height * math.exp(rng.uniform(math.log(0.005), math.log(0.1))))
    if rng.random() < 0.3:
        backdrop = backdrop + rng.uniform(0.01, 0.08) * rng.standard_normal(backdrop.shape).astype(np.float32)
    return np.clip(backdrop, 0, 1)


def _changed_whole(levels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture with a random brightness, contrast and sharpness."""
    levels = np.clip(levels, 0, 1) ** math.exp(rng.uniform(-0.35, 0.35))
    how = rng.random()
    if how < 0.4:
        blur = rng.uniform(0.4, 1.2)
        levels = np.stack([cv2.GaussianBlur(picture, (0, 0), blur) for picture in levels])
    elif how < 0.7:
        spread, amount = rng.uniform(0.7, 3.0), rng.uniform(0.3, 1.5)
        levels = np.stack([p + amount * (p - cv2.GaussianBlur(p, (0, 0), spread)) for p in levels])
    elif how < 0.9:
        kernel = rng.normal(0, 0.12, (3, 3)).astype(np.float32)
        kernel[1, 1] += 1
        kernel /= max(0.5, kernel.sum())
        levels = np.stack([cv2.filter2D(picture, -1, kernel) for picture in levels])
    return levels
