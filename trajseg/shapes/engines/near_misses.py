"""Near misses: sentences that fit an object but for one attribute, so they refer to nothing (hard negatives)."""

from __future__ import annotations

import random

from trajseg.shapes.world.facts import Facts
from trajseg.shapes.world.language import Instruction
from trajseg.shapes.world.phrases import ATTRIBUTE, EVENT, MOTION, MOTION_OF_ONE
from trajseg.shapes.world.questions import meaning
from trajseg.shapes.world.scenes import COLOURS, HELD_OUT, MOTIONS, SHAPES, SIZES, Scene

CHANGED = ("shape", "shape", "shape", "colour", "size", "motion")
"""Attributes that may be wrong. The shape is as frequent as all others together: a detector that looks for circles
also finds squares, and then the candidate's phrase agrees with the sentence."""
SAID = 0.6
"""Probability that each of the other looks is named as well."""
MOVING = 0.3
"""Share of sentences with a wrong look that also say how the object moves."""


def near_miss(scene: Scene, facts: Facts, rng: random.Random) -> tuple[int, Instruction] | None:
    """The index of an object, and a sentence that fits it but for one attribute.

    None if the drawn sentence refers to an object after all, or names a pair that occurs only in the test split.
    """
    k = rng.randrange(len(scene.objects))
    changed = rng.choice(CHANGED)
    looks, motion = _changed(scene, k, changed, rng)
    named = {name for name in looks if name == changed or rng.random() < SAID}
    if {"colour", "shape"} <= named and (looks["colour"], looks["shape"]) in HELD_OUT:
        return None
    described = " ".join(looks[name] for name in looks if name in named)
    if "shape" not in named:
        described = f"{described} object".strip()
    meant = meaning(described, scene.objects)
    if changed == "motion" or rng.random() < MOVING:
        if not all(facts.moves_visibly) or any(scene.objects[j].motion == motion for j in meant):
            return None
        clause = rng.choice(MOTION[motion].of("train"))
        text = rng.choice(MOTION_OF_ONE.of("train")).format(d=described, m=clause)
    elif changed == "shape" and facts.leaves[k]:
        if any(facts.leaves[j] is not False for j in meant):
            return None
        text = rng.choice(EVENT["leaves"].of("train")).format(d=described)
    elif meant:
        return None
    else:
        text = rng.choice(ATTRIBUTE.of("train")).format(d=described)
    return k, Instruction("none", "none", text, ())


def _changed(scene: Scene, k: int, changed: str, rng: random.Random) -> tuple[dict[str, str], str]:
    """An object's looks, in the order of a sentence, and its motion, with one of them changed."""
    o = scene.objects[k]
    now = {"size": o.size, "colour": o.colour, "shape": o.shape, "motion": o.motion}
    all_of = {"size": SIZES, "colour": COLOURS, "shape": SHAPES, "motion": MOTIONS}
    now[changed] = rng.choice([each for each in all_of[changed] if each != now[changed]])
    motion = now.pop("motion")
    return now, motion
