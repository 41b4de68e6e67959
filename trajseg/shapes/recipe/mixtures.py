"""Objects with unnamed colours and shapes, so that a model recognises shapes in any colour, and colours on any shape.

A small model that never sees a yellow cross learns that nothing yellow is a cross, and that is correct for its training
data. Here some crosses have a colour without a name, and some yellow objects a shape without a name. The loss of an
answer skips words that do not exist, and some attribute words are corrupted in the teacher-forced input.

The *look* of an object is a vector of LOOKS weights: one per colour, shape and size name (the first NAMES), and one per
unnamed appearance of a symbol.
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
"""Number of unnamed appearances of symbols."""
LOOKS = NAMES + STRANGE
NO_WORD = "nameless"
"""Placeholder in an answer for an attribute without a name; not in the tokenizer's vocabulary."""


@dataclass(frozen=True)
class SymbolShares:
    """Probabilities for symbolic objects."""

    nameless: float = 0.18
    """Probability that an object's colour has no name; the same for its shape."""
    blended: float = 0.25
    """Probability that an unnamed attribute is a blend of two names; otherwise it is an unnamed appearance."""
    least_weight: float = 0.35
    """Minimum weight of either name in a blend, so that neither is correct."""
    corrupted: float = 0.15
    """Probability of corrupting an attribute word in the teacher-forced input."""


@dataclass(frozen=True)
class DrawnShares:
    """Fractions of rendered objects with unnamed attributes, in one stage."""

    unnamed: float = 0.0
    """Fraction with an unnamed colour, among objects with a named shape."""
    unshaped: float = 0.0
    """Fraction with an unnamed shape."""


@dataclass(frozen=True)
class PaintShares:
    """How colours of rendered objects are mixed."""

    mixed: float = 0.5
    """Probability that an object gets a second colour."""
    second: float = 0.45
    """Maximum weight of the second colour."""
    apart: float = 110.0
    """Minimum RGB distance of an unnamed colour from every colour in a held-out pair."""
    clear: float = 90.0
    """Minimum RGB distance from every named colour for a colour to be clearly unnamed."""


SYMBOLS = SymbolShares()
PAINT = PaintShares()
DRAWN = {
    "vision": DrawnShares(unnamed=0.55, unshaped=0.35),
    # Objects with both names teach it little.
    "tower": DrawnShares(unnamed=0.85, unshaped=0.3),
    # Few: the prompt cannot tell apart two objects that differ only in unnamed colours.
    "masks": DrawnShares(unnamed=0.15),
}
"""By stage; all mask stages use `masks`, and `pixels` uses `vision`."""


def attributes(scene: Scene) -> Tensor:
    """Colour, shape and size of each object as indices, (K, 3) int64; -1 for an unnamed shape."""
    return torch.tensor(
        [
            (COLOURS.index(o.colour), -1 if is_strange(o.shape) else SHAPES.index(o.shape), SIZES.index(o.size))
            for o in scene.objects
        ]
    )


def unseen(attributes: Tensor) -> bool:
    """Whether any of these objects, (K, 3) int64, has a held-out pair of colour and shape."""
    return any((COLOURS[colour], SHAPES[shape]) in HELD_OUT for colour, shape, _ in attributes.tolist())


def pure(attributes: Tensor) -> Tensor:
    """Looks of objects with unmixed attributes: (K, 3) int64 -> (K, LOOKS) float32.

    If an attribute is -1, all its names have weight 0.
    """
    starts = torch.tensor((0, len(COLOURS), len(COLOURS) + len(SHAPES)))
    known = (attributes >= 0).float()
    return torch.zeros(len(attributes), LOOKS).scatter_(1, attributes.clamp(min=0) + starts, known)


def nameless(attributes: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
    """As `pure`, but some colours and shapes are unnamed, or a blend of two names.

    Returns: looks (K, LOOKS), and whether colour, shape and size have a name, (K, 3) bool.
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
    """The scene with some objects' colours mixed with a second one, and the looks, (K, LOOKS).

    unnamed: fraction of objects that get an unnamed colour; their weights of all colours are 0. Objects with an unnamed
    shape keep a named colour.
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
    """The scene with a fraction `share` of its objects in unnamed shapes."""
    shapes = (strange(rng) if rng.random() < share else o.shape for o in scene.objects)
    return dataclasses.replace(
        scene, objects=[dataclasses.replace(o, shape=s) for o, s in zip(scene.objects, shapes, strict=True)]
    )


def clearly_unnamed(scene: Scene, rng: random.Random, share: float) -> tuple[Scene, Tensor, Tensor]:
    """The scene with a fraction `share` of its objects in colours far from every named one.

    Returns: the scene, the looks (K, LOOKS), and whether each attribute has a name, as from `nameless`.
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
    """A random colour, far from the colours of held-out pairs, and at least `clear` away from all other named ones.

    The rule is the same for all shapes. If only squares avoided orange, a model would learn that nearly orange objects
    are not squares.
    """
    apart = {name: PAINT.apart if name in {colour for colour, _ in HELD_OUT} else clear for name in COLOURS}
    while True:
        rgb = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        if all(math.dist(rgb, RGB[name]) >= distance for name, distance in apart.items()):
            return rgb


def with_placeholders(o: SceneObject, known: Sequence[bool]) -> SceneObject:
    """The object, with NO_WORD for each of colour, shape and size that has no name."""
    names = (name if is_known else NO_WORD for name, is_known in zip((o.colour, o.shape, o.size), known, strict=True))
    return _renamed(o, names)


def with_corrupted_names(o: SceneObject, known: Sequence[bool], rng: random.Random) -> SceneObject:
    """The object, with some names randomly replaced, and a random name for each attribute without one."""
    names = (
        rng.choice(kind) if rng.random() < (SYMBOLS.corrupted if is_known else 1.0) else name
        for name, kind, is_known in zip((o.colour, o.shape, o.size), KINDS, known, strict=True)
    )
    return _renamed(o, names)


def _renamed(o: SceneObject, names: Iterable[str]) -> SceneObject:
    colour, shape, size = names
    return dataclasses.replace(o, colour=colour, shape=shape, size=size)
