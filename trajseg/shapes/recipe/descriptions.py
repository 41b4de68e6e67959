"""Prompts for the mask side: a clip's objects, some without one of their names, and decoys that no clip contains.

A mask side that is only prompted for what a clip has learns to draw the nearest thing to a description. Where the
object meant has left the picture, or has not entered it yet, that is another object. And one that never sees a yellow
cross learns to deny it, unless it has to tell a cross without its colour, and what is yellow without its shape.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trajseg.shapes.recipe.clips import Pictures
from trajseg.shapes.recipe.mixtures import KINDS, unseen
from trajseg.shapes.world.scenes import COLOURS

UNSAID = 0.3
"""Share of descriptions that leave out one of colour, shape and size."""
CHANGED = (1, 1, 2)
"""In how many names a decoy differs from an object of the clip, each as often."""
TRIES = 20


@dataclass(frozen=True)
class Descriptions:
    """attributes (R, 3) int64: colour, shape and size as indices; named (R, 3) bool: which of them count."""

    attributes: Tensor
    named: Tensor

    def __len__(self) -> int:
        return len(self.attributes)


def of_objects(clip: Pictures, rng: random.Random) -> Descriptions:
    """A description of every object. What is left where a name is left out fits no other object of the clip."""
    named = _names(clip)
    for k, row in enumerate(named):
        kept = _without_one(row.tolist(), rng)
        if _fitting(clip, clip.attributes[k].tolist(), kept) == [k]:
            named[k] = torch.tensor(kept)
    return Descriptions(clip.attributes, named)


def decoys_of(clip: Pictures, rng: random.Random, count: int) -> Descriptions:
    """At most `count` descriptions like those of objects that fit none of the clip's.

    Pairs of colour and shape that training must not have are left out: a description that is never right would be
    learned as one.
    """
    names = _names(clip)
    attributes: list[list[int]] = []
    named: list[list[bool]] = []
    for _ in range(TRIES):
        if len(attributes) == count:
            break
        like = rng.randrange(len(names))
        drawn, kept = clip.attributes[like].tolist(), _without_one(names[like].tolist(), rng)
        said = [kind for kind, is_named in enumerate(kept) if is_named]
        for kind in rng.sample(said, min(len(said), rng.choice(CHANGED))):
            drawn[kind] = rng.choice([value for value in range(len(KINDS[kind])) if value != drawn[kind]])
        barred = kept[0] and kept[1] and unseen(torch.tensor([drawn]))
        if not barred and not _fitting(clip, drawn, kept):
            attributes.append(drawn)
            named.append(kept)
    shape = (-1, len(KINDS))
    return Descriptions(
        torch.tensor(attributes, dtype=torch.int64).view(shape), torch.tensor(named, dtype=torch.bool).view(shape)
    )


def _names(clip: Pictures) -> Tensor:
    """Which of colour, shape and size have a name, of each object, (K, 3) bool."""
    named = torch.ones(len(clip.attributes), len(KINDS), dtype=torch.bool)
    named[:, 0] = clip.look[:, : len(COLOURS)].any(1)
    return named


def _without_one(named: Sequence[bool], rng: random.Random) -> list[bool]:
    """The same names, in a share UNSAID of the cases without one of them."""
    unsaid = rng.randrange(len(named)) if rng.random() < UNSAID else None
    return [is_named and kind != unsaid for kind, is_named in enumerate(named)]


def _fitting(clip: Pictures, drawn: Sequence[int], named: Sequence[bool]) -> list[int]:
    """The objects that a description may be meant for; one whose colour has no name may have any."""
    alike = (clip.attributes == torch.tensor(drawn)) | ~torch.tensor(named)
    colours = clip.look[:, : len(COLOURS)]
    alike[:, 0] |= (colours[:, drawn[0]] > 0) | ~colours.any(1)
    return alike.all(1).nonzero()[:, 0].tolist()
