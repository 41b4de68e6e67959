"""Strange shapes: all different, within REACH, and none of the named shapes."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from trajseg.shapes.world.outlines import REACH, is_strange, outline, strange
from trajseg.shapes.world.render import _area, _contours
from trajseg.shapes.world.scenes import SHAPES

SIDE = 128


@pytest.fixture(scope="module")
def drawn() -> list[str]:
    rng = random.Random(0)
    return [strange(rng) for _ in range(100)]


def plane(shape: str, turn: float = 0.0) -> np.ndarray:
    """A shape that covers about a tenth of the picture, bool [SIDE, SIDE]."""
    radius = (0.1 / _area(list(outline(shape)))) ** 0.5
    placed: Any = SimpleNamespace(shape=shape, angle=turn, radius=radius)
    contours = _contours(placed)
    points = [np.round(SIDE * (0.5 + contour)).astype(np.int32) for contour in contours]
    return cv2.fillPoly(np.zeros((SIDE, SIDE), np.uint8), points, 1).astype(bool)


def test_a_strange_shape_is_always_the_same_and_no_other(drawn: list[str]) -> None:
    assert all(is_strange(shape) for shape in drawn)
    assert not any(is_strange(shape) for shape in SHAPES)
    assert len({plane(shape).tobytes() for shape in drawn}) == len(drawn)
    for shape in drawn:
        farthest = max(np.linalg.norm(contour, axis=1).max() for contour in outline(shape))
        assert farthest == pytest.approx(REACH)


def test_no_strange_shape_is_one_that_has_a_name(drawn: list[str]) -> None:
    turns = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    named = np.stack([plane(shape, turn) for shape in SHAPES for turn in turns]).reshape(-1, SIDE * SIDE).astype(float)
    ones = np.stack([plane(shape) for shape in drawn]).reshape(-1, SIDE * SIDE).astype(float)
    both = ones @ named.T
    iou = both / (ones.sum(1)[:, None] + named.sum(1)[None] - both)
    assert iou.max() < 0.9, (drawn[int(iou.max(1).argmax())], float(iou.max()))
