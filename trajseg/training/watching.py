"""Clips to watch: symbolic clips without questions, from which the language model learns to follow objects."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from trajseg.data.shapes.world import COLOURS, MOTIONS, SHAPES, sample_scene
from trajseg.model import TrajSegProcessor
from trajseg.training.texts import Packed, Seen, pack, seen_objects

POOL = 3000
"""Scenes kept; each is seen in countless disguises."""


class WatchStream(IterableDataset[Packed]):
    """Endless batches of clips without questions.

    Scenes are taken from a pool and disguised: mirrored, played backwards, with colours and shapes exchanged.
    """

    def __init__(self, processor: TrajSegProcessor, seed: int, batch: int, frames: int) -> None:
        self.processor, self.seed, self.batch, self.frames = processor, seed, batch, frames

    def __iter__(self) -> Iterator[Packed]:
        rng = random.Random(f"watch/{self.seed}")
        pool: list[tuple[Seen, tuple[float, float]]] = []
        while True:
            if len(pool) < POOL:
                for _ in range(self.batch):
                    scene = sample_scene(rng.getrandbits(40), "train")
                    longest = max(1.0, scene.aspect)
                    pool.append((seen_objects(scene, self.frames), (scene.aspect / longest, 1 / longest)))
            clips = [disguised(*rng.choice(pool), self.frames, rng) for _ in range(self.batch)]
            yield pack([(seen, []) for seen in clips], self.processor, self.frames)


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
    attributes = seen.attributes.clone()
    for column, names in enumerate((COLOURS, SHAPES)):
        attributes[:, column] = torch.tensor(rng.sample(range(len(names)), len(names)))[attributes[:, column]]
    return Seen(attributes, box, frame, motion).in_order()


def _exchanged(motion: Tensor, one: str, other: str) -> Tensor:
    a, b = MOTIONS.index(one), MOTIONS.index(other)
    return torch.where(motion == a, b, torch.where(motion == b, a, motion))
