"""Looks that have no name: so that a shape is recognised whatever the colour, and a colour whatever the shape.

A small model that never sees a yellow cross learns that what is yellow is no cross, and is right all through its
training. Here crosses are of colours that have no name, too, and what is yellow has shapes that have none; an answer
leaves out of its loss what cannot be said, and while it is written, some of its words are read as others.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trajseg.shapes.world.outlines import is_strange, strange
from trajseg.shapes.world.scenes import COLOURS, HELD_OUT, RGB, SHAPES, SIZES, Scene, SceneObject

KINDS: tuple[tuple[str, ...], ...] = (COLOURS, SHAPES, SIZES)
ATTRIBUTE_SIZES = (len(COLOURS), len(SHAPES), len(SIZES))
NAMES = sum(ATTRIBUTE_SIZES)
STRANGE = 64
"""Looks of symbols that are none of the world's."""
LOOKS = NAMES + STRANGE
NO_WORD = "nameless"
"""Placeholder in an answer for a thing without a name; the tokenizer must not know it."""


@dataclass(frozen=True)
class SymbolShares:
    """How symbolic objects lose their names."""

    nameless: float = 0.18
    """Share of objects whose colour has no name, and share of those whose shape has none."""
    blended: float = 0.25
    """Share of nameless ones that lie half-way between two names; the others are strange."""
    least_weight: float = 0.35
    """In a blend of two names each has at least this weight, so that neither is the object's."""
    misheard: float = 0.15
    """Share of names in an answer that the model reads as another one while it writes on."""


@dataclass(frozen=True)
class DrawnShares:
    """How drawn objects lose their names, by stage."""

    unnamed: float = 0.0
    """Share of objects whose colour is none of the world's (of those whose shape is one of the world's)."""
    unshaped: float = 0.0
    """Share of objects whose shape is none of the world's."""


@dataclass(frozen=True)
class PaintShares:
    """How colours of drawn objects are mixed."""

    mixed: float = 0.5
    """Share of objects that get a second colour."""
    second: float = 0.45
    """The second colour's weight at most."""
    apart: float = 110.0
    """Distance in RGB that an unnamed colour keeps from each colour that some shape must not be seen in."""
    clear: float = 90.0
    """Distance in RGB from every colour that has a name, from which on a colour can be taken for none of them."""


SYMBOLS = SymbolShares()
PAINT = PaintShares()
DRAWN = {
    "vision": DrawnShares(unnamed=0.55, unshaped=0.35),
    # It has little to learn from objects that have both names.
    "tower": DrawnShares(unnamed=0.85, unshaped=0.3),
    # Few: two objects of unnamed colours that differ in colour alone look the same to a prompt.
    "masks": DrawnShares(unnamed=0.15),
}
"""By stage; stages of the mask side use those of `masks`, `pixels` uses those of `vision`."""


def attributes(scene: Scene) -> Tensor:
    """Colour, shape and size of each object as indices, (K, 3) int64; -1 for a strange shape."""
    return torch.tensor(
        [
            (COLOURS.index(o.colour), -1 if is_strange(o.shape) else SHAPES.index(o.shape), SIZES.index(o.size))
            for o in scene.objects
        ]
    )


def unseen(attributes: Tensor) -> bool:
    """Whether a pair of colour and shape that training must not have is among these objects, (K, 3) int64."""
    return any((COLOURS[colour], SHAPES[shape]) in HELD_OUT for colour, shape, _ in attributes.tolist())


def pure(attributes: Tensor) -> Tensor:
    """Weights of all looks, of objects that are what they are called: (K, 3) int64 -> (K, LOOKS) float32.

    Where an attribute is -1, all its names have weight 0.
    """
    starts = torch.tensor((0, len(COLOURS), len(COLOURS) + len(SHAPES)))
    known = (attributes >= 0).float()
    return torch.zeros(len(attributes), LOOKS).scatter_(1, attributes.clamp(min=0) + starts, known)


def nameless(attributes: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
    """As `pure`, where some colours and shapes are strange ones, or lie half-way between two.

    Returns: weights (K, LOOKS), and which of colour, shape and size have their name, (K, 3) bool.
    """
    look, named = pure(attributes), torch.ones_like(attributes, dtype=torch.bool)
    for k in range(len(look)):
        for number, names in enumerate((COLOURS, SHAPES)):
            if rng.random() >= SYMBOLS.nameless:
                continue
            named[k, number] = False
            part = look[k, :NAMES].split(ATTRIBUTE_SIZES)[number]
            if rng.random() >= SYMBOLS.blended:
                part.zero_()
                look[k, NAMES + rng.randrange(STRANGE)] += 1.0
            else:
                share = rng.uniform(SYMBOLS.least_weight, 1 - SYMBOLS.least_weight)
                part *= 1 - share
                part[rng.randrange(len(names))] += share
    return look, named


def mixed_colours(scene: Scene, rng: random.Random, unnamed: float = 0.0) -> tuple[Scene, Tensor]:
    """The scene with some objects' colours mixed with a second one, and the weights of all looks, (K, LOOKS).

    unnamed: share of objects that get a colour without a name; the weights of all colours are 0 for them. Strange
    shapes keep their colours' names.
    """
    look, painted = pure(attributes(scene)), []
    for row, o in zip(look, scene.objects, strict=True):
        draw = rng.random()
        if draw < unnamed and not is_strange(o.shape):
            row[: len(COLOURS)] = 0
            painted.append(dataclasses.replace(o, rgb=_unnamed(rng)))
        elif draw < unnamed + (1 - unnamed) * PAINT.mixed:
            second, share = rng.randrange(len(COLOURS)), rng.uniform(0, PAINT.second)
            row[: len(COLOURS)] *= 1 - share
            row[second] += share
            rgb = [round((1 - share) * a + share * b) for a, b in zip(o.rgb, RGB[COLOURS[second]], strict=True)]
            painted.append(dataclasses.replace(o, rgb=(rgb[0], rgb[1], rgb[2])))
        else:
            painted.append(o)
    return dataclasses.replace(scene, objects=painted), look


def strangely_shaped(scene: Scene, rng: random.Random, share: float) -> Scene:
    """The scene with a share of its objects in shapes that have no name."""
    shapes = (strange(rng) if rng.random() < share else o.shape for o in scene.objects)
    return dataclasses.replace(
        scene, objects=[dataclasses.replace(o, shape=s) for o, s in zip(scene.objects, shapes, strict=True)]
    )


def clearly_unnamed(scene: Scene, rng: random.Random, share: float) -> tuple[Scene, Tensor, Tensor]:
    """The scene with a share of its objects painted in colours that nobody would call by one of the world's names.

    Returns: the scene, the weights of all looks (K, LOOKS), and which names each object has, as `nameless` does.
    """
    look, painted = pure(attributes(scene)), []
    named = torch.ones(len(look), len(KINDS), dtype=torch.bool)
    for row, known, o in zip(look, named, scene.objects, strict=True):
        if rng.random() < share:
            row[: len(COLOURS)], known[0] = 0, False
            o = dataclasses.replace(o, rgb=_unnamed(rng, PAINT.clear))
        painted.append(o)
    return dataclasses.replace(scene, objects=painted), look, named


def _unnamed(rng: random.Random, clear: float = 0.0) -> tuple[int, int, int]:
    """Any colour far from those that some shape must not have in training, and `clear` from all that have a name.

    For all shapes alike: were squares alone kept away from orange, what is nearly orange would be learned to be none.
    """
    apart = {name: PAINT.apart if name in {colour for colour, _ in HELD_OUT} else clear for name in COLOURS}
    while True:
        rgb = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        if all(math.dist(rgb, RGB[name]) >= distance for name, distance in apart.items()):
            return rgb


def unsaid(o: SceneObject, known: Sequence[bool]) -> SceneObject:
    """The object, called NO_WORD where its colour, shape or size has no name."""
    names = (name if is_known else NO_WORD for name, is_known in zip((o.colour, o.shape, o.size), known, strict=True))
    return _called(o, names)


def misheard(o: SceneObject, known: Sequence[bool], rng: random.Random) -> SceneObject:
    """The object, with a share of its names replaced, and with a random name if it has none."""
    names = (
        rng.choice(kind) if rng.random() < (SYMBOLS.misheard if is_known else 1.0) else name
        for name, kind, is_known in zip((o.colour, o.shape, o.size), KINDS, known, strict=True)
    )
    return _called(o, names)


def _called(o: SceneObject, names: Iterable[str]) -> SceneObject:
    colour, shape, size = names
    return dataclasses.replace(o, colour=colour, shape=shape, size=size)
