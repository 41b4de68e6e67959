"""Pseudo-videos: warped copies of a still image, used as clips if only images have text (paper, data)."""

from __future__ import annotations

import cv2
import numpy as np

CORNER_JITTER = 0.08
TRANSLATION = 0.1
ROTATION = 20.0
BRIGHTNESS = 40
HUE_SATURATION = 5
BLUR_SHARE = 0.25


def pseudo_video(picture: np.ndarray, masks: np.ndarray, frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture and frames - 1 copies, each warped from the picture itself, in random order.

    Args:
        picture: uint8 [H, W, 3] RGB.
        masks: bool [S, H, W].
        frames: T, 1 or more.
        seed: gives the same frames each time.

    Returns:
        frames uint8 [T, H, W, 3] and masks bool [S, T, H, W].
    """
    rng = np.random.default_rng(seed)
    drawn = [(picture, masks)]
    for _ in range(frames - 1):
        warp = _warp(rng, *picture.shape[:2])
        size = (picture.shape[1], picture.shape[0])
        copy = cv2.warpPerspective(_coloured(picture, rng), warp, size, flags=cv2.INTER_LINEAR)
        moved = [cv2.warpPerspective(mask.astype(np.uint8), warp, size, flags=cv2.INTER_NEAREST) for mask in masks]
        drawn.append((_blurred(copy, rng), np.array(moved, bool).reshape(masks.shape)))
    order = rng.permutation(frames)
    return np.stack([drawn[i][0] for i in order]), np.stack([drawn[i][1] for i in order], axis=1)


def _warp(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Perspective (corners move inwards), then rotation about the middle and one shift for both axes, [3, 3]."""
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], np.float32)
    inwards = np.minimum(np.abs(rng.normal(0, CORNER_JITTER, (4, 2))), 0.4) * np.where(corners > 0, -1, 1)
    size = np.array([width, height], np.float32)
    perspective = cv2.getPerspectiveTransform(((corners + inwards) * size).astype(np.float32), corners * size)
    shift = rng.uniform(-TRANSLATION, TRANSLATION)
    affine = np.eye(3)
    affine[:2] = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-ROTATION, ROTATION), 1.0)
    affine[:2, 2] += shift * size
    return affine @ perspective


def _coloured(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture with a random brightness, a random hue and saturation, or both."""
    which = rng.integers(3)
    if which != 1:
        brighter = picture.astype(np.int16) + rng.integers(-BRIGHTNESS, BRIGHTNESS + 1)
        picture = np.clip(brighter, 0, 255).astype(np.uint8)
    if which != 0:
        shift = int(rng.integers(-HUE_SATURATION, HUE_SATURATION + 1))
        hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV).astype(np.int16)
        hsv[..., 0] = (hsv[..., 0] + shift) % 180
        hsv[..., 1] = np.clip(hsv[..., 1] + shift, 0, 255)
        picture = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    return picture


def _blurred(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Occasionally adds motion blur."""
    if rng.random() >= BLUR_SHARE:
        return picture
    size = int(rng.choice((9, 11)))
    line = np.zeros((size, size), np.float32)
    line[size // 2] = 1.0
    turn = cv2.getRotationMatrix2D((size / 2 - 0.5, size / 2 - 0.5), rng.uniform(0, 180), 1.0)
    kernel = cv2.warpAffine(line, turn, (size, size))
    return cv2.filter2D(picture, -1, kernel / kernel.sum())
