"""Recognition errors in symbols, as a vision tower makes them: small and partly hidden objects are sometimes misread.

A language model trained only on exact symbols trusts every frame, and denies an object whose shape is wrong in one of
them. With these errors it learns to rely on the majority of frames.
"""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import torch
from torch import Tensor

from trajseg.shapes.recipe.mixtures import ATTRIBUTE_SIZES, NAMES, pure
from trajseg.shapes.recipe.texts import VisibleObjects, names
from trajseg.shapes.world.scenes import COLOURS, HELD_OUT, SHAPES

RATE = 0.02
"""Probability that a token's shape is misread."""
HARD = 0.12
"""Fraction of objects that are hard to recognise, such as small ones in wide pictures."""
RATE_HARD = 0.35
"""Probability for a token of a hard object, or of one that is partly hidden."""
COLOURS_LESS = 0.25
"""Factor on the probability for colours."""
WHOLE = 0.7
"""An object whose box is smaller than this fraction of its largest box is partly hidden."""
WRONG = (0.4, 1.0)
"""Range of the wrong name's weight in a misread token."""
NOISE = 0.027
"""Standard deviation of the noise added to every look; measured on projected tokens, whose squared error is about 0.02
of their variance."""


def misread(seen: VisibleObjects, rng: random.Random) -> VisibleObjects:
    """The same rows, with looks as a vision tower might recognise them.

    Never a held-out pair of colour and shape: the model would learn to treat that pair as an error.
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


def _rates(seen: VisibleObjects, rng: random.Random) -> list[float]:
    """Probability of misreading the shape, by row."""
    name = names(seen.attributes)
    area = (seen.box[:, 2:] - seen.box[:, :2]).prod(1)
    rates = torch.empty(len(name))
    for each in name.unique():
        own = name == each
        rates[own] = RATE_HARD if rng.random() < HARD else RATE
        rates[own & (area < WHOLE * area[own].max())] = RATE_HARD
    return rates.tolist()


def _read_as(part: Tensor, name: int, rng: random.Random) -> None:
    """Mixes a wrong name into one attribute's part of a look, in place."""
    weight = rng.uniform(*WRONG)
    part *= 1 - weight
    part[name] += weight
