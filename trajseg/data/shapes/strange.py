"""Shapes that have no name in the shapes world: frames, arcs, stars of other than five points, blobs, bars, letters."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import numpy as np

Outline = tuple[np.ndarray, ...]

REACH = 1.25
"""Distance of a strange shape's farthest point from its centre, in units of its radius."""
PREFIX = "strange "
LETTERS: tuple[Callable[[float], list[tuple[float, float]]], ...] = (
    lambda b: [(-1, -1), (2 * b - 1, -1), (2 * b - 1, 1 - 2 * b), (1, 1 - 2 * b), (1, 1), (-1, 1)],
    lambda b: [(-1, -1), (1, -1), (1, 2 * b - 1), (b, 2 * b - 1), (b, 1), (-b, 1), (-b, 2 * b - 1), (-1, 2 * b - 1)],
    lambda b: [(-1, -b), (0, -b), (0, -1), (1, 0), (0, 1), (0, b), (-1, b)],
)
"""L, T and an arrow with strokes of half width b."""


def strange(rng: random.Random) -> str:
    """What stands for a new strange shape where a shape's name stands."""
    return f"{PREFIX}{rng.getrandbits(32)}"


def is_strange(shape: str) -> bool:
    """Whether a shape is one of `strange`."""
    return shape.startswith(PREFIX)


def outline(shape: str) -> Outline:
    """Closed contours [M, 2] of a strange shape at radius 1, even-odd filled."""
    rng = random.Random(shape)
    contours = rng.choice((_frame, _arc, _star, _blob, _bar, _letter))(rng)
    farthest = max(float(np.linalg.norm(contour, axis=1).max()) for contour in contours)
    return tuple(contour * (REACH / farthest) for contour in contours)


def _frame(rng: random.Random) -> Outline:
    outer = _around([1.0] * rng.choice((3, 4, 4)), rng) * (1.0, rng.uniform(0.6, 1.0))
    return outer, outer * rng.uniform(0.35, 0.7)


def _arc(rng: random.Random) -> Outline:
    start, length = rng.uniform(0, 2 * math.pi), rng.uniform(0.9, 1.55) * math.pi
    turn = start + np.linspace(0, length, 40)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return (np.concatenate([circle, rng.uniform(0.35, 0.62) * circle[::-1]]),)


def _star(rng: random.Random) -> Outline:
    return (_around([1.0, rng.uniform(0.27, 0.5)] * rng.choice((4, 6, 7, 8)), rng),)


def _blob(rng: random.Random) -> Outline:
    return (_around([rng.uniform(0.4, 1.0) for _ in range(rng.randint(5, 9))], rng),)


def _bar(rng: random.Random) -> Outline:
    b = rng.uniform(0.22, 0.45)
    return (_turned([(-1, -b), (1, -b), (1, b), (-1, b)], rng),)


def _letter(rng: random.Random) -> Outline:
    return (_turned(rng.choice(LETTERS)(rng.uniform(0.27, 0.4)), rng),)


def _around(radii: Sequence[float], rng: random.Random) -> np.ndarray:
    turn = rng.uniform(0, 2 * math.pi) + 2 * math.pi * np.arange(len(radii)) / len(radii)
    return np.array(radii)[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)


def _turned(points: list[tuple[float, float]], rng: random.Random) -> np.ndarray:
    turn = rng.uniform(0, 2 * math.pi)
    c, s = math.cos(turn), math.sin(turn)
    return np.array(points, float) @ np.array([[c, s], [-s, c]])
