"""Jitter of a clip: all of its frames moved, turned, scaled and lit alike, so that few clips go a longer way.

Changes are small, because the words about a clip must stay true: left stays left, small stays small, red stays red.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from trajseg.data.samples import Sample, boxes_of


@dataclass(frozen=True)
class Jitter:
    """How far a clip is changed at most, each drawn evenly on either side.

    Args:
        rotation: in degrees.
        scale: 0.1 is from 1 / 1.1 to 1.1.
        shift: of the picture's sides.
        light: of brightness, contrast and saturation: 0.2 is from 0.8 to 1.2.
    """

    rotation: float = 12.0
    scale: float = 0.12
    shift: float = 0.06
    light: float = 0.2

    def apply(self, samples: Sequence[Sample], rng: random.Random) -> list[Sample]:
        """Samples that share one array of frames, changed alike; what they share they share again.

        What is moved in at an edge repeats the picture's edge, and belongs to no object. The samples themselves are
        given back where an object would be moved out of all frames that show it.
        """
        frames = samples[0].frames
        matrix, lit = self._matrix(frames.shape[1:3], rng), self._lit(frames, rng)
        moved = np.stack([_warped(frame, matrix, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE) for frame in lit])
        changed = []
        for sample in samples:
            masks = sample.masks.copy()
            for target in masks:
                for place in range(len(target)):
                    if target[place].any():
                        shape = target[place].astype(np.uint8)
                        target[place] = _warped(shape, matrix, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT) > 0
            if (sample.masks.any(axis=(2, 3)) & ~masks.any(axis=(2, 3))).any():
                return list(samples)
            boxes = None if sample.boxes is None else boxes_of(masks[0])
            changed.append(replace(sample, frames=moved, masks=masks, boxes=boxes))
        return changed

    def _matrix(self, size: tuple[int, int], rng: random.Random) -> np.ndarray:
        height, width = size
        turn = rng.uniform(-self.rotation, self.rotation)
        scale = (1 + self.scale) ** rng.uniform(-1, 1)
        matrix: np.ndarray = cv2.getRotationMatrix2D((width / 2, height / 2), turn, scale)
        matrix[:, 2] += [rng.uniform(-self.shift, self.shift) * width, rng.uniform(-self.shift, self.shift) * height]
        return matrix

    def _lit(self, frames: np.ndarray, rng: random.Random) -> np.ndarray:
        brightness, contrast, saturation = (1 + rng.uniform(-self.light, self.light) for _ in range(3))
        levels = frames.astype(np.float32) * brightness
        grey = levels @ np.array([0.299, 0.587, 0.114], np.float32)
        levels = grey[..., None] + saturation * (levels - grey[..., None])
        middle = levels.mean()
        return np.clip(middle + contrast * (levels - middle), 0, 255).round().astype(np.uint8)


def _warped(picture: np.ndarray, matrix: np.ndarray, how: int, border: int) -> np.ndarray:
    height, width = picture.shape[:2]
    return cv2.warpAffine(picture, matrix, (width, height), flags=how, borderMode=border)
