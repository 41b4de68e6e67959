"""Jitter: geometric augmentation that rotates, scales and shifts all frames of a clip alike.

Changes are small, because text about a clip must remain true: left stays left, small stays small, still stays still.
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
    """Maximum changes to a clip; each is drawn uniformly in both directions.

    Args:
        rotation: degrees.
        scale: 0.1 means from 1 / 1.1 to 1.1.
        shift: in units of the picture's sides.
    """

    rotation: float = 12.0
    scale: float = 0.12
    shift: float = 0.06

    def apply(self, samples: Sequence[Sample], rng: random.Random) -> list[Sample]:
        """The samples with moved frames. All samples must share one array of frames, and do so in the result.

        Pixels that enter at an edge repeat the picture's edge and belong to no object. If a target would leave a frame
        that shows it, the samples are returned unchanged.
        """
        first = samples[0]
        matrix = self._matrix(first.frames.shape[1:3], rng)
        moved = [replace(sample, masks=_moved_masks(sample.masks, matrix)) for sample in samples]
        for before, after in zip(samples, moved, strict=True):
            if (before.masks.any(axis=(2, 3)) & ~after.masks.any(axis=(2, 3))).any():
                return list(samples)
        frames = np.stack([_warped(frame, matrix, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE) for frame in first.frames])
        objects = None if first.objects is None else _moved_ids(first.objects, matrix)
        return [
            replace(
                sample,
                frames=frames,
                objects=objects,
                boxes=None if sample.boxes is None else boxes_of(sample.masks[0]),
            )
            for sample in moved
        ]

    def _matrix(self, size: tuple[int, int], rng: random.Random) -> np.ndarray:
        """A random affine matrix [2, 3] from old to new positions."""
        height, width = size
        turn = rng.uniform(-self.rotation, self.rotation)
        scale = (1 + self.scale) ** rng.uniform(-1, 1)
        matrix: np.ndarray = cv2.getRotationMatrix2D((width / 2, height / 2), turn, scale)
        matrix[:, 2] += [rng.uniform(-self.shift, self.shift) * width, rng.uniform(-self.shift, self.shift) * height]
        return matrix


def _moved_masks(masks: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """bool [S, T, H, W]."""
    return np.array([_moved_ids(target.astype(np.uint8), matrix) for target in masks], bool).reshape(masks.shape)


def _moved_ids(planes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W]; 0 enters at the edges."""
    return np.stack([_warped(plane, matrix, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT) for plane in planes])


def _warped(picture: np.ndarray, matrix: np.ndarray, how: int, border: int) -> np.ndarray:
    height, width = picture.shape[:2]
    return cv2.warpAffine(picture, matrix, (width, height), flags=how, borderMode=border)
