"""Clips to watch: symbolic clips without questions, from which the language model learns to follow objects."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from trajseg.model import TrajSegProcessor
from trajseg.shapes.recipe.mixtures import nameless, unseen
from trajseg.shapes.recipe.texts import Packed, Seen, pack, seen_objects, trajectories
from trajseg.shapes.world.scenes import COLOURS, MOTIONS, SHAPES, sample_scene

POOL = 3000
"""Scenes kept; each is seen in countless disguises."""


class WatchClips:
    """Endless batches of clips without questions, by number.

    Scenes are taken from a pool and disguised: mirrored, played backwards, with colours and shapes that are exchanged
    or have no name.
    """

    def __init__(self, processor: TrajSegProcessor, seed: int, batch: int, frames: int) -> None:
        self.processor, self.seed, self.batch, self.frames = processor, seed, batch, frames
        self._pool: dict[int, tuple[Seen, tuple[float, float]]] = {}

    def __call__(self, number: int) -> Packed:
        """The batch of that number."""
        rng = random.Random(f"watch/{self.seed}/{number}")
        clips = [disguised(*self._scene(rng.randrange(POOL)), self.frames, rng) for _ in range(self.batch)]
        return pack([(seen, []) for seen in clips], self.processor, self.frames)

    def _scene(self, index: int) -> tuple[Seen, tuple[float, float]]:
        """What is seen in scene `index` of the pool, and its width and height in units of the letterboxed side."""
        if index not in self._pool:
            scene = sample_scene(random.Random(f"pool/{self.seed}/{index}").getrandbits(40), "train")
            longest = max(1.0, scene.aspect)
            seen = seen_objects(scene, trajectories(scene, self.frames))
            self._pool[index] = (seen, (scene.aspect / longest, 1 / longest))
        return self._pool[index]


def disguised(seen: Seen, extent: tuple[float, float], frames: int, rng: random.Random) -> Seen:
    """A clip turned into another that may as well exist.

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
    return Seen(attributes, box, frame, motion, look[k]).in_order()


def _exchanged_names(attributes: Tensor, rng: random.Random) -> Tensor:
    """Every colour for another, and every shape, (M, 3); never to a pair that training must not have."""
    while True:
        exchanged = attributes.clone()
        for column, names in enumerate((COLOURS, SHAPES)):
            exchanged[:, column] = torch.tensor(rng.sample(range(len(names)), len(names)))[attributes[:, column]]
        if not unseen(exchanged):
            return exchanged


def _exchanged(motion: Tensor, one: str, other: str) -> Tensor:
    a, b = MOTIONS.index(one), MOTIONS.index(other)
    return torch.where(motion == a, b, torch.where(motion == b, a, motion))
