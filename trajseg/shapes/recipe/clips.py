"""Training clips of the shapes world as tensors: pictures, masks and dense targets."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from trajseg.model.processor import inner_size, letterbox
from trajseg.shapes.recipe.mixtures import attributes, mixed_colours, pure, strangely_shaped
from trajseg.shapes.world.render import boxes, render
from trajseg.shapes.world.scenes import COLOURS, Scene, sample_scene

LIT = 0.3
"""Probability that a training clip gets another light; see relit."""
FADED = 0.25
"""Probability that a clip is faded, in stages with unnamed colours; see faded."""
TURNS = 0.5
"""Probability that a clip of nearby frames includes a frame where an object appears or disappears, if there is one."""
SHOWS = 0.05
"""Visible fraction from which an object counts as present."""
WIDEST = 2.4
"""Aspect ratio of the widest clips: letterboxed, their objects are half as large as those of 16:9."""


@dataclass
class Pictures:
    """n frames of one clip, letterboxed to size x size.

    pixels (n, 3, S, S) float32 normalised; ids (n, S, S) uint8, 0 background, k + 1 object k;
    attributes (K, 3) int64: colour, shape and size of each object as indices into the world's tuples;
    look (K, NAMES) float32: the weight of each name in each object's look (see mixtures).
    """

    pixels: Tensor
    ids: Tensor
    attributes: Tensor
    look: Tensor

    @property
    def planes(self) -> Tensor:
        """Each object's visible pixels in each frame, (n, K, S, S) float32 of 0 and 1."""
        numbers = torch.arange(1, len(self.attributes) + 1, dtype=torch.uint8).view(1, -1, 1, 1)
        return (self.ids[:, None] == numbers).float()


def pictures(
    scene: Scene,
    indices: list[int],
    size: int,
    scale: float = 1.0,
    look: Tensor | None = None,
    light: random.Random | None = None,
) -> Pictures:
    """Renders frames of a scene at `scale` times the letterboxed resolution, then fits them into size x size.

    look: as in Pictures; None for objects with unmixed attributes. light: random numbers for the light, which a
    fraction LIT of the clips gets; None leaves them as rendered.
    """
    height = round(size * scale / max(1.0, scene.aspect))
    frames, ids = render(scene, height, indices)
    if light is not None and light.random() < LIT:
        frames = relit(frames, light)
    fitted = np.zeros((len(indices), size, size), np.uint8)
    inner_height, inner_width = inner_size(frames.shape[1], frames.shape[2], size)
    for number, plane in enumerate(ids):
        fitted[number, :inner_height, :inner_width] = cv2.resize(
            plane, (inner_width, inner_height), interpolation=cv2.INTER_NEAREST
        )
    return Pictures(
        torch.stack([letterbox(frame, size) for frame in frames]),
        torch.from_numpy(fitted),
        attributes(scene),
        pure(attributes(scene)) if look is None else look,
    )


def relit(frames: np.ndarray, rng: random.Random) -> np.ndarray:
    """Frames [n, H, W, 3] uint8 in other light and through haze, with photon noise as of a sensor."""
    light = math.exp(rng.uniform(math.log(0.3), math.log(1.2)))
    contrast, haze = rng.uniform(0.35, 1), rng.uniform(90, 230)
    levels = haze + contrast * (light * np.arange(256, dtype=np.float32) - haze)
    pixels = frames.reshape(len(frames), -1)
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(pixels.shape, np.float32)
    noise *= cv2.LUT(pixels, rng.uniform(0, 20) * np.sqrt(np.clip(levels, 4, 255) / 128))  # type: ignore[arg-type]
    noise += cv2.LUT(pixels, levels)  # type: ignore[arg-type]
    return np.rint(noise.clip(0, 255, out=noise), out=noise).astype(np.uint8).reshape(frames.shape)


def faded(pixels: Tensor, rng: random.Random) -> Tensor:
    """Normalised pictures (n, 3, S, S) with at most a tenth of their saturation: shapes are visible, colours are not.

    This creates no held-out pair of colour and shape. (With half of the saturation, the model would learn that slightly
    orange objects are not squares.)
    """
    return torch.lerp(pixels.mean(1, keepdim=True), pixels, rng.uniform(0, 0.1))


class ClipStream(IterableDataset[Pictures]):
    """Endless training clips: `frames` pictures of each, at random times at most `stride` frames apart.

    Some objects have a mix of two colours, and a fraction `unnamed` an unnamed colour; if that is not 0, some clips are
    faded, and no colour has a name there. A fraction `unshaped` has an unnamed shape. A fraction `wide` of the clips
    has an aspect ratio between 16:9 and WIDEST, so that objects are small. The light varies.

    Every worker derives its own seeds from `seed`, so a resumed run with another seed sees other clips.
    """

    def __init__(
        self,
        seed: int,
        frames: int,
        size: int,
        stride: int | None = None,
        unnamed: float = 0.0,
        unshaped: float = 0.0,
        wide: float = 0.0,
    ) -> None:
        self.seed, self.frames, self.size, self.stride = seed, frames, size, stride
        self.unnamed, self.unshaped, self.wide = unnamed, unshaped, wide

    def __iter__(self) -> Iterator[Pictures]:
        worker = torch.utils.data.get_worker_info()
        rng = random.Random(f"{self.seed}/{worker.id if worker else 0}")
        cv2.setNumThreads(1)
        while True:
            aspect = rng.uniform(16 / 9, WIDEST) if self.wide and rng.random() < self.wide else None
            scene = sample_scene(rng.getrandbits(40), "train", aspect=aspect)
            times, scale = self._times(scene, rng), rng.choice((1.0, 1.0, 1.0, 1.5, 0.75))
            if self.unshaped:
                scene = strangely_shaped(scene, rng, self.unshaped)
            scene, look = mixed_colours(scene, rng, self.unnamed)
            clip = pictures(scene, times, self.size, scale, look, rng)
            if self.unnamed and rng.random() < FADED:
                clip.pixels = faded(clip.pixels, rng)
                clip.look[:, : len(COLOURS)] = 0
            yield clip

    def _times(self, scene: Scene, rng: random.Random) -> list[int]:
        if self.stride is None:
            return sorted(rng.sample(range(scene.frame_count), self.frames))
        step = min(rng.randint(1, self.stride), (scene.frame_count - 1) // (self.frames - 1))
        length = step * (self.frames - 1)
        start = rng.randrange(scene.frame_count - length)
        if rng.random() < TURNS and (found := turns(scene)):
            turn = rng.choice(found)
            start = rng.randint(max(0, turn - length), min(turn - 1, scene.frame_count - 1 - length))
        return [start + step * i for i in range(self.frames)]


def turns(scene: Scene) -> list[int]:
    """The frames (0-based) in which an object appears or disappears."""
    _, visible = boxes(scene, range(scene.frame_count))
    there = visible >= SHOWS
    return ((there[:, 1:] != there[:, :-1]).any(0).nonzero()[0] + 1).tolist()
