"""Symbolic clips without questions, from which the language model learns to follow objects."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from trajseg.model import TrajSegProcessor
from trajseg.shapes.recipe.mixtures import nameless, unseen
from trajseg.shapes.recipe.packing import Packed, pack
from trajseg.shapes.recipe.texts import VisibleObjects, seen_objects, trajectories
from trajseg.shapes.world.scenes import COLOURS, MOTIONS, SHAPES, sample_scene

POOL = 3000
"""Number of scenes in the pool; each is used with many augmentations."""


class WatchClips:
    """Endless batches of clips without questions, by number.

    Scenes come from a pool and are augmented: mirrored, reversed in time, with exchanged or unnamed colours and shapes.
    """

    def __init__(self, processor: TrajSegProcessor, seed: int, batch: int, frames: int) -> None:
        self.processor, self.seed, self.batch, self.frames = processor, seed, batch, frames
        self._pool: dict[int, tuple[VisibleObjects, tuple[float, float]]] = {}

    def __call__(self, number: int) -> Packed:
        """Batch `number`."""
        rng = random.Random(f"watch/{self.seed}/{number}")
        clips = [augmented(*self._scene(rng.randrange(POOL)), self.frames, rng) for _ in range(self.batch)]
        return pack([(seen, []) for seen in clips], self.processor, self.frames)

    def _scene(self, index: int) -> tuple[VisibleObjects, tuple[float, float]]:
        """Scene `index` of the pool: its visible objects, and width and height in units of the letterboxed side."""
        if index not in self._pool:
            scene = sample_scene(random.Random(f"pool/{self.seed}/{index}").getrandbits(40), "train")
            longest = max(1.0, scene.aspect)
            seen = seen_objects(scene, trajectories(scene, self.frames))
            self._pool[index] = (seen, (scene.aspect / longest, 1 / longest))
        return self._pool[index]


def augmented(seen: VisibleObjects, extent: tuple[float, float], frames: int, rng: random.Random) -> VisibleObjects:
    """The clip, randomly mirrored, reversed and renamed into another valid clip.

    Args:
        extent: width and height of the picture in units of the letterboxed side.
        frames: of the clip.
    """
    box, frame, motion = seen.box.clone(), seen.frame, seen.motion.clone()
    for axis, (there, back) in enumerate((("left", "right"), ("up", "down"))):
        if rng.random() < 0.5:
            box[:, [axis, axis + 2]] = extent[axis] - box[:, [axis + 2, axis]]
            motion[:, 0] = _exchanged(motion[:, 0], there, back)
    if rng.random() < 0.5:
        frame = frames - 1 - frame
        for there, back in (("left", "right"), ("up", "down")):
            motion[:, 0] = _exchanged(motion[:, 0], there, back)
    attributes = _exchanged_names(seen.attributes, rng)
    objects, k = attributes.unique(dim=0, return_inverse=True)
    look, _ = nameless(objects, rng)
    return VisibleObjects(attributes, box, frame, motion, look[k]).in_order()


def _exchanged_names(attributes: Tensor, rng: random.Random) -> Tensor:
    """Permutes colours and shapes, (M, 3), without producing a held-out pair."""
    while True:
        exchanged = attributes.clone()
        for column, names in enumerate((COLOURS, SHAPES)):
            exchanged[:, column] = torch.tensor(rng.sample(range(len(names)), len(names)))[attributes[:, column]]
        if not unseen(exchanged):
            return exchanged


def _exchanged(motion: Tensor, one: str, other: str) -> Tensor:
    a, b = MOTIONS.index(one), MOTIONS.index(other)
    return torch.where(motion == a, b, torch.where(motion == b, a, motion))
