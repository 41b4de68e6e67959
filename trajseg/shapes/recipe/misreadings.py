"""Symbols as a picture tower reads them: small and half-hidden things are now and then taken for others.

A language model that has only met exact symbols believes every frame, and denies an object whose shape is wrong in
one of them. Here it learns to go by most of the frames.
"""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import torch
from torch import Tensor

from trajseg.shapes.recipe.mixtures import ATTRIBUTE_SIZES, NAMES, pure
from trajseg.shapes.recipe.texts import Seen, names
from trajseg.shapes.world.scenes import COLOURS, HELD_OUT, SHAPES

RATE = 0.02
"""Share of tokens whose shape is misread."""
HARD = 0.12
"""Share of objects that are hard to read, such as small ones in wide pictures."""
RATE_HARD = 0.35
"""Share of these objects' tokens whose shape is misread, and of tokens of objects that are partly hidden."""
COLOURS_LESS = 0.25
"""Colours are misread so much less often."""
WHOLE = 0.7
"""Of an object's largest box: what shows less is partly hidden."""
WRONG = (0.4, 1.0)
"""Weight of the wrong name in the look of a misread token."""
NOISE = 0.027
"""Standard deviation of what is added to every look; measured on projected tokens, whose squared error is about 0.02 of
their variance."""


def misread(seen: Seen, rng: random.Random) -> Seen:
    """The same rows, their looks as a picture tower might have read them.

    Never as a pair of colour and shape that training must not have: it would be learned to be another's misreading.
    """
    look = pure(seen.attributes) if seen.look is None else seen.look.clone()
    rates = _rates(seen, rng)
    for row, (colour, shape, _), rate in zip(look, seen.attributes.tolist(), rates, strict=True):
        colours, shapes, _ = row[:NAMES].split(ATTRIBUTE_SIZES)
        if rng.random() < rate:
            able = [s for s in range(len(SHAPES)) if s != shape and (COLOURS[colour], SHAPES[s]) not in HELD_OUT]
            _read_as(shapes, rng.choice(able), rng)
        elif rng.random() < COLOURS_LESS * rate:
            able = [c for c in range(len(COLOURS)) if c != colour and (COLOURS[c], SHAPES[shape]) not in HELD_OUT]
            _read_as(colours, rng.choice(able), rng)
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(look.shape, np.float32)
    return dataclasses.replace(seen, look=look + NOISE * torch.from_numpy(noise))


def _rates(seen: Seen, rng: random.Random) -> list[float]:
    """How likely the shape of each row is misread."""
    name = names(seen.attributes)
    area = (seen.box[:, 2:] - seen.box[:, :2]).prod(1)
    rates = torch.empty(len(name))
    for each in name.unique():
        own = name == each
        rates[own] = RATE_HARD if rng.random() < HARD else RATE
        rates[own & (area < WHOLE * area[own].max())] = RATE_HARD
    return rates.tolist()


def _read_as(part: Tensor, name: int, rng: random.Random) -> None:
    """Gives a name its wrong weight in a part of a look, in place."""
    weight = rng.uniform(*WRONG)
    part *= 1 - weight
    part[name] += weight
