"""Style transfer between clips: objects get the style of another clip's objects, on that clip's background.

A project has few corrected videos; the base's own data has endless clips with exact masks. Clips of the base in the
style of the project combine both. The style of an object is its brightness and the amount of white in its colour, as
functions of the distance from its edge, and its shading from side to side. An object keeps its hue unless the other
clip has an object of nearly the same hue. Place, shape and motion do not change, so masks and text remain true.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from trajseg.data.extent import area_of, radius_of
from trajseg.data.samples import Sample

RINGS = 24
"""Number of rings of equal width, from an object's edge inwards, for which its style is measured."""
RING = 0.05
"""Width of a ring, in radii of a circle with the object's area."""
LEAST = 60
"""Minimum number of pixels of an object for measuring its style."""
COLOURED = 0.25
"""Minimum saturation, 0 to 1, at which an object has a hue."""
SAME_HUE = 25.0
"""Maximum difference in hue, degrees, between two colours with the same name."""


@dataclass(frozen=True)
class Ink:
    """The style of an object: in each ring, own x (pure colour) + light, times a shade from side to side.

    Args:
        colour: float32 [3] RGB, its largest channel 1.
        own, light: float32 [RINGS], from the edge inwards.
        slope: float32 [2], change in brightness per radius to the right and downwards.
    """

    colour: np.ndarray
    own: np.ndarray
    light: np.ndarray
    slope: np.ndarray

    @property
    def coloured(self) -> bool:
        """Whether it has a hue."""
        return float(1 - self.colour.min()) >= COLOURED


@dataclass(frozen=True)
class BorrowedLook:
    """The style of a clip.

    Args:
        background: float32 [H, W, 3] RGB, 0 to 1, without the objects.
        inks: the styles of its objects; at least one.
    """

    background: np.ndarray
    inks: tuple[Ink, ...]

    @classmethod
    def of(cls, frames: np.ndarray, objects: np.ndarray, rng: random.Random) -> BorrowedLook | None:
        """The style of a clip; None if no object is large enough to measure.

        Args:
            frames: uint8 [T, H, W, 3] RGB.
            objects: uint8 [T, H, W], as `Sample.objects`.
        """
        inks = []
        for k in np.unique(objects[objects > 0]).tolist():
            sizes = np.count_nonzero(objects == k, axis=(1, 2))
            best = int(sizes.argmax())
            if sizes[best] >= LEAST:
                inks.append(_ink(frames[best].astype(np.float32) / 255, objects[best] == k))
        if not inks:
            return None
        at = rng.randrange(len(frames))
        hidden = cv2.dilate((objects[at] > 0).astype(np.uint8), np.ones((5, 5), np.uint8))
        background = cv2.inpaint(frames[at], hidden, 5, cv2.INPAINT_TELEA)
        return cls(background.astype(np.float32) / 255, tuple(inks))

    def apply(self, samples: Sequence[Sample], rng: random.Random) -> list[Sample]:
        """The samples in this style. All must share one array of frames, and do so in the result; all objects of the
        clip must be known."""
        frames, objects = samples[0].frames, samples[0].objects
        if objects is None:
            return list(samples)
        canvas = self._backgrounds(frames.shape, rng)
        cloth = rng.random()
        for k in np.unique(objects[objects > 0]).tolist():
            shown = objects == k
            largest = int(np.count_nonzero(shown, axis=(1, 2)).argmax())
            colour = _pure(np.median(frames[largest][shown[largest]].astype(np.float32) / 255, axis=0))
            ink = self._ink_for(colour, rng)
            radius = radius_of(shown[largest])
            for number in np.flatnonzero(shown.any(axis=(1, 2))).tolist():
                _draw(canvas[number], shown[number], frames[number], ink, radius, cloth)
        changed = (np.clip(canvas, 0, 1) * 255).round().astype(np.uint8)
        return [replace(sample, frames=changed) for sample in samples]

    def _backgrounds(self, shape: tuple[int, ...], rng: random.Random) -> np.ndarray:
        """float32 [T, H, W, 3]: a crop of the background, still or drifting."""
        count, height, width = shape[:3]
        scale = max(height / self.background.shape[0], width / self.background.shape[1]) * rng.uniform(1.0, 1.3)
        size = (math.ceil(self.background.shape[1] * scale), math.ceil(self.background.shape[0] * scale))
        large = cv2.resize(self.background, size, interpolation=cv2.INTER_LINEAR)
        if rng.random() < 0.5:
            large = large[:, ::-1]
        room = np.array([large.shape[0] - height, large.shape[1] - width])
        start, end = (np.array([rng.randint(0, int(most)) for most in room]) for _ in range(2))
        if rng.random() < 0.5:
            end = start
        pieces = []
        for number in range(count):
            y, x = np.round(start + (end - start) * number / max(1, count - 1)).astype(int)
            pieces.append(large[y : y + height, x : x + width])
        return np.stack(pieces)

    def _ink_for(self, colour: np.ndarray, rng: random.Random) -> Ink:
        """The style for an object of this colour."""
        coloured = float(1 - colour.min()) >= COLOURED
        alike = [ink for ink in self.inks if ink.coloured == coloured]
        if coloured:
            same = [ink for ink in alike if abs((_hue(ink.colour) - _hue(colour) + 180) % 360 - 180) <= SAME_HUE]
            if same and rng.random() < 0.5:
                return rng.choice(same)
        elif alike:
            return rng.choice(alike)
        # A white object, as source or target, determines only the brightness.
        return replace(rng.choice(alike or self.inks), colour=colour)


def _draw(canvas: np.ndarray, mask: np.ndarray, picture: np.ndarray, ink: Ink, radius: float, cloth: float) -> None:
    """Draws one object into a picture float32 [H, W, 3], in place."""
    area = area_of(mask, 3)
    inside = mask[area]
    ring, x, y = _places(inside, radius)
    colour = np.interp(ring, np.arange(RINGS), ink.own)[..., None] * ink.colour
    colour = colour + np.interp(ring, np.arange(RINGS), ink.light)[..., None]
    colour = colour * np.clip(1 + ink.slope[0] * x + ink.slope[1] * y, 0.2, 1.8)[..., None]
    bright = picture[area].max(axis=2).astype(np.float32)
    colour = colour * (1 + cloth * (np.clip(bright / bright[inside].mean(), 0.5, 1.5) - 1))[..., None]
    cover = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 0.6, borderType=cv2.BORDER_REPLICATE)[..., None]
    canvas[area] += cover * (np.clip(colour, 0, 1) - canvas[area])


def _ink(picture: np.ndarray, mask: np.ndarray) -> Ink:
    """The style of an object in a picture float32 [H, W, 3], 0 to 1."""
    ring, x, y = _places(mask, radius_of(mask))
    pixels, ring, x, y = picture[mask], ring[mask], x[mask], y[mask]
    spread = pixels.max(axis=1) - pixels.min(axis=1)
    vivid = pixels[spread >= np.quantile(spread, 0.6)]
    colour = _pure(np.median(vivid, axis=0))
    coloured = float(1 - colour.min()) >= COLOURED
    means = np.zeros((RINGS, 3), np.float32)
    known = np.zeros(RINGS, bool)
    nearest = np.clip(ring.round().astype(int), 0, RINGS - 1)
    for number in range(RINGS):
        here = nearest == number
        if np.count_nonzero(here) >= 3:
            means[number], known[number] = pixels[here].mean(axis=0), True
    places = np.flatnonzero(known)
    means = np.stack([np.interp(np.arange(RINGS), places, means[places, c]) for c in range(3)], axis=1)
    if coloured:
        # Two unknowns from three channels: the amounts of the pure colour and of white.
        basis = np.stack([colour, np.ones(3, np.float32)], axis=1)
        own, light = np.linalg.lstsq(basis, means.T, rcond=None)[0]
    else:
        own, light = means.mean(axis=1), np.zeros(RINGS)
    bright = pixels.max(axis=1) / np.interp(ring, np.arange(RINGS), means.max(axis=1)).clip(0.05)
    slope = np.linalg.lstsq(np.stack([x, y], axis=1), bright - 1, rcond=None)[0]
    return Ink(colour, own.astype(np.float32), light.astype(np.float32), slope.clip(-0.8, 0.8).astype(np.float32))


def _places(mask: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pixel its ring (fractional, 0 at the object's edge), and its offset from the centre to the right and
    downwards in radii: three float32 [H, W]. The picture's border does not count as the object's edge."""
    padded = np.pad(mask, 1, mode="edge").astype(np.uint8)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]].astype(np.float32)
    y, x = (y - y[mask].mean()) / radius, (x - x[mask].mean()) / radius
    return np.maximum(depth - 0.5, 0) / radius / RING, x, y


def _pure(colour: np.ndarray) -> np.ndarray:
    """The colour scaled so that its largest channel is 1."""
    return (colour / max(float(colour.max()), 1e-3)).astype(np.float32)


def _hue(colour: np.ndarray) -> float:
    """Degrees."""
    return float(cv2.cvtColor(colour.astype(np.float32)[None, None], cv2.COLOR_RGB2HSV)[0, 0, 0])
