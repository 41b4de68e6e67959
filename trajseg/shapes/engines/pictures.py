"""Single pictures of the shapes world, with the boxes and attributes of the visible objects."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import IterableDataset

from trajseg.shapes.recipe.clips import relit
from trajseg.shapes.world.render import boxes, render
from trajseg.shapes.world.scenes import COLOURS, HELD_OUT, RGB, SHAPES, SIZES, Scene, sample_scene

SHOWN = 0.3
"""Share of an object that must be visible for it to count as shown."""
LIT = 0.25
"""Share of relit pictures."""


@dataclass(frozen=True)
class Picture:
    """A frame and the K objects that it shows.

    Args:
        rgb: uint8 [H, W, 3].
        boxes: float32 [K, 4], xyxy in pixels, of the visible part.
        attributes: int64 [K, 3], colour, shape and size as indices into the world's tuples.
    """

    rgb: np.ndarray
    boxes: np.ndarray
    attributes: np.ndarray


@dataclass(frozen=True)
class Recolouring:
    """Changes all colours of a picture and leaves its shapes unchanged.

    Args:
        turn: shift of the hue in OpenCV's half degrees, 0 to 179.
        saturation: factor.
        negative: whether the picture is inverted as well.
    """

    turn: int
    saturation: float
    negative: bool

    @classmethod
    def drawn(cls, rng: random.Random, colour: str, shape: str) -> Recolouring:
        """A random one that does not give an object a colour that its shape has only in the test split."""
        while True:
            one = cls(rng.randrange(180), rng.uniform(0.2, 1.2), rng.random() < 0.3)
            new = one(np.array(RGB[colour], np.uint8)[None, None])[0, 0].astype(int)
            nearest = min(COLOURS, key=lambda name: float(np.abs(new - RGB[name]).sum()))
            if (nearest, shape) not in HELD_OUT:
                return one

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """The picture, RGB uint8 [H, W, 3], recoloured."""
        hsv = cv2.cvtColor(255 - rgb if self.negative else rgb, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + self.turn) % 180
        hsv[..., 1] = np.clip(hsv[..., 1] * self.saturation, 0, 255)
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def visible_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """The tightest box xyxy around a mask bool [H, W]; None if it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def attributes_of(scene: Scene) -> np.ndarray:
    """Colour, shape and size of each object, int64 [K, 3]."""
    return np.array(
        [(COLOURS.index(o.colour), SHAPES.index(o.shape), SIZES.index(o.size)) for o in scene.objects], np.int64
    )


def pictures_of(scene: Scene, indices: list[int], height: int) -> Iterator[Picture]:
    """The frames `indices` of a scene."""
    frames, ids = render(scene, height, indices)
    shown = boxes(scene, indices)[1] >= SHOWN
    looks = attributes_of(scene)
    for number, (frame, plane) in enumerate(zip(frames, ids, strict=True)):
        found = [(k, visible_box(plane == k + 1)) for k in range(len(looks)) if shown[k, number]]
        kept = [(k, box) for k, box in found if box is not None]
        corners = np.array([box for _, box in kept], np.float32).reshape(-1, 4)
        yield Picture(frame, corners, looks[[k for k, _ in kept]].reshape(-1, 3))


class PictureStream(IterableDataset[Picture]):
    """Endless pictures of the training split; `longest` is the longer side in pixels, slightly varied."""

    def __init__(self, seed: int, longest: int, frames: int = 3) -> None:
        self.seed, self.longest, self.frames = seed, longest, frames

    def __iter__(self) -> Iterator[Picture]:
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        rng = random.Random(self.seed)
        while True:
            scene = sample_scene(rng.getrandbits(40), "train")
            times = rng.sample(range(scene.frame_count), self.frames)
            height = round(self.longest * rng.choice((1.0, 1.0, 0.75, 1.4)) / max(1.0, scene.aspect))
            for picture in pictures_of(scene, sorted(times), height):
                rgb = relit(picture.rgb[None], rng)[0] if rng.random() < LIT else picture.rgb
                yield Picture(rgb, picture.boxes, picture.attributes)
