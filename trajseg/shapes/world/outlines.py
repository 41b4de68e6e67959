"""Outlines of shapes: the named ones of the shapes world, and random "strange" ones without a name.

An outline is one or two closed contours, float64 [M, 2] each, around the shape's centre, y downwards, even-odd filled.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Sequence

import numpy as np

Outline = tuple[np.ndarray, ...]
Points = list[tuple[float, float]]

UP = -math.pi / 2
REACH = 1.25
"""Distance of a strange shape's farthest point from its centre, in radii."""
PREFIX = "strange "


def strange(rng: random.Random) -> str:
    """Identifier of a new random shape; it is also the seed of its outline."""
    return f"{PREFIX}{rng.getrandbits(32)}"


def is_strange(shape: str) -> bool:
    """Whether a shape comes from `strange`."""
    return shape.startswith(PREFIX)


@functools.lru_cache(maxsize=256)
def outline(shape: str) -> Outline:
    """The outline of a shape of radius 1; all shapes look about equally large.

    Raises:
        ValueError: unknown shape.
    """
    if shape in _NAMED:
        return _NAMED[shape]
    if is_strange(shape):
        return _strange(random.Random(shape))
    raise ValueError(shape)


def _around(radii: Sequence[float], start: float) -> np.ndarray:
    """Points at these radii and equal angles, starting in the direction `start` (radians)."""
    turn = start + 2 * math.pi * np.arange(len(radii)) / len(radii)
    return np.array(radii)[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)


def _cross(a: float, b: float) -> Points:
    """Arms of length a and half width b."""
    corner = [(-b, -a), (b, -a), (b, -b)]
    return [*corner, (a, -b), (a, b), (b, b), (b, a), (-b, a), (-b, b), (-a, b), (-a, -b), (-b, -b)]


_NAMED: dict[str, Outline] = {
    "circle": (_around([1.0] * 64, 0.0),),
    "square": (_around([1.25] * 4, math.pi / 4),),
    "triangle": (_around([1.3] * 3, UP),),
    "ring": (_around([1.05] * 64, 0.0), _around([0.56] * 64, 0.0)),
    "star": (_around([1.3, 0.56] * 5, UP),),
    "cross": (np.array(_cross(1.12, 0.38), float),),
}


def _strange(rng: random.Random) -> Outline:
    """A random frame, arc, star with other than five points, blob, bar or letter."""
    contours = rng.choice((_frame, _arc, _star, _blob, _bar, _letter))(rng)
    farthest = max(float(np.linalg.norm(contour, axis=1).max()) for contour in contours)
    return tuple(contour * (REACH / farthest) for contour in contours)


def _frame(rng: random.Random) -> Outline:
    outer = _around([1.0] * rng.choice((3, 4, 4)), _direction(rng)) * (1.0, rng.uniform(0.6, 1.0))
    return outer, outer * rng.uniform(0.35, 0.7)


def _arc(rng: random.Random) -> Outline:
    start, length = _direction(rng), rng.uniform(0.9, 1.55) * math.pi
    turn = start + np.linspace(0, length, 40)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return (np.concatenate([circle, rng.uniform(0.35, 0.62) * circle[::-1]]),)


def _star(rng: random.Random) -> Outline:
    return (_around([1.0, rng.uniform(0.27, 0.5)] * rng.choice((4, 6, 7, 8)), _direction(rng)),)


def _blob(rng: random.Random) -> Outline:
    return (_around([rng.uniform(0.4, 1.0) for _ in range(rng.randint(5, 9))], _direction(rng)),)


def _bar(rng: random.Random) -> Outline:
    b = rng.uniform(0.22, 0.45)
    return (_turned([(-1, -b), (1, -b), (1, b), (-1, b)], rng),)


_LETTERS: tuple[Callable[[float], Points], ...] = (
    lambda b: [(-1, -1), (2 * b - 1, -1), (2 * b - 1, 1 - 2 * b), (1, 1 - 2 * b), (1, 1), (-1, 1)],
    lambda b: [(-1, -1), (1, -1), (1, 2 * b - 1), (b, 2 * b - 1), (b, 1), (-b, 1), (-b, 2 * b - 1), (-1, 2 * b - 1)],
    lambda b: [(-1, -b), (0, -b), (0, -1), (1, 0), (0, 1), (0, b), (-1, b)],
)
"""L, T and an arrow with strokes of half width b."""


def _letter(rng: random.Random) -> Outline:
    return (_turned(rng.choice(_LETTERS)(rng.uniform(0.27, 0.4)), rng),)


def _turned(points: Points, rng: random.Random) -> np.ndarray:
    turn = _direction(rng)
    c, s = math.cos(turn), math.sin(turn)
    return np.array(points, float) @ np.array([[c, s], [-s, c]])


def _direction(rng: random.Random) -> float:
    return rng.uniform(0, 2 * math.pi)
