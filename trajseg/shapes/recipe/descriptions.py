"""Prompts for the mask side: descriptions of a clip's objects, some of them partial, and decoys (absent objects).

If it is only prompted for objects that are there, the mask side learns to draw whatever is nearest to the description:
another object, if the right one is outside the picture. And if it never sees a yellow cross, it learns to deny one,
unless it is also prompted for crosses without a colour and for yellow objects without a shape.
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

OMITTED = 0.3
"""Probability that a description omits one of colour, shape and size."""
CHANGED = (1, 1, 2)
"""Numbers of attributes in which a decoy differs from an object of the clip; one is chosen uniformly."""
TRIES = 20


@dataclass(frozen=True)
class Descriptions:
    """attributes (R, 3) int64: colour, shape and size as indices; named (R, 3) bool: whether each is given."""

    attributes: Tensor
    named: Tensor

    def __len__(self) -> int:
        return len(self.attributes)


def of_objects(clip: Pictures, rng: random.Random) -> Descriptions:
    """A description of every object. A partial one still fits no other object of the clip."""
    named = _names(clip)
    for k, row in enumerate(named):
        kept = _without_one(row.tolist(), rng)
        if _fitting(clip, clip.attributes[k].tolist(), kept) == [k]:
            named[k] = torch.tensor(kept)
    return Descriptions(clip.attributes, named)


def decoys_of(clip: Pictures, rng: random.Random, count: int) -> Descriptions:
    """At most `count` descriptions that fit no object of the clip, but are similar to one.

    Held-out pairs of colour and shape are excluded: the model would learn that they never exist.
    """
    names = _names(clip)
    attributes: list[list[int]] = []
    named: list[list[bool]] = []
    for _ in range(TRIES):
        if len(attributes) == count:
            break
        original = rng.randrange(len(names))
        decoy, kept = clip.attributes[original].tolist(), _without_one(names[original].tolist(), rng)
        kinds = [kind for kind, is_named in enumerate(kept) if is_named]
        for kind in rng.sample(kinds, min(len(kinds), rng.choice(CHANGED))):
            decoy[kind] = rng.choice([value for value in range(len(KINDS[kind])) if value != decoy[kind]])
        held_out = kept[0] and kept[1] and unseen(torch.tensor([decoy]))
        if not held_out and not _fitting(clip, decoy, kept):
            attributes.append(decoy)
            named.append(kept)
    shape = (-1, len(KINDS))
    return Descriptions(
        torch.tensor(attributes, dtype=torch.int64).view(shape), torch.tensor(named, dtype=torch.bool).view(shape)
    )


def _names(clip: Pictures) -> Tensor:
    """Whether each object's colour, shape and size has a name, (K, 3) bool."""
    named = torch.ones(len(clip.attributes), len(KINDS), dtype=torch.bool)
    named[:, 0] = clip.look[:, : len(COLOURS)].any(1)
    return named


def _without_one(named: Sequence[bool], rng: random.Random) -> list[bool]:
    """The same flags, with probability OMITTED without one attribute."""
    omitted = rng.randrange(len(named)) if rng.random() < OMITTED else None
    return [is_named and kind != omitted for kind, is_named in enumerate(named)]


def _fitting(clip: Pictures, decoy: Sequence[int], named: Sequence[bool]) -> list[int]:
    """The objects that a description may mean; an unnamed colour fits any colour."""
    alike = (clip.attributes == torch.tensor(decoy)) | ~torch.tensor(named)
    colours = clip.look[:, : len(COLOURS)]
    alike[:, 0] |= (colours[:, decoy[0]] > 0) | ~colours.any(1)
    return alike.all(1).nonzero()[:, 0].tolist()
