"""True instructions about a scene, requests and reference captions, in a small closed vocabulary."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trajseg.shapes.world import phrases as say
from trajseg.shapes.world.facts import Facts
from trajseg.shapes.world.phrases import NOTHING, REQUEST_SEGMENT_TEMPLATES, vocabulary, words
from trajseg.shapes.world.questions import SOURCES
from trajseg.shapes.world.scenes import COLOURS, SHAPES, SIZES, Scene, SceneObject

__all__ = [
    "CATEGORY",
    "KINDS",
    "NOTHING",
    "REQUEST_SEGMENT_TEMPLATES",
    "Instruction",
    "caption_requests",
    "instructions",
    "parse_caption",
    "reference_caption",
    "segment_request",
    "short_caption",
    "vocabulary",
    "words",
]

Category = Literal["referring", "reasoning", "none", "several"]

CATEGORY: dict[str, Category] = {
    "attribute": "referring",
    "motion": "referring",
    "place": "referring",
    "order": "reasoning",
    "comparison": "reasoning",
    "event": "reasoning",
    "knowledge": "reasoning",
    "several": "several",
    "none": "none",
}
KINDS = tuple(CATEGORY)


@dataclass(frozen=True)
class Instruction:
    """A sentence about a scene, and its target objects.

    `targets` are indices into Scene.objects: one, none, or for "several" two or more, from left to right by where each
    is first seen.
    """

    kind: str
    category: Category
    text: str
    targets: tuple[int, ...]


def instructions(
    scene: Scene,
    rng: random.Random,
    split: str | None = None,
    limit_per_kind: int = 2,
    facts: Facts | None = None,
) -> list[Instruction]:
    """Unambiguous instructions about a scene, at most `limit_per_kind` of each kind, grouped by kind.

    Exactly the targets satisfy each one, comparisons have a margin, and each target is seen in at least 2 of
    the 8 sampled frames. `split` determines the wording; None: the scene's own. `facts`: Facts(scene), if already
    available.
    """
    facts = facts or Facts(scene)
    wording = split or scene.split
    found: list[Instruction] = []
    for kind, source in SOURCES.items():
        asked = [a for a in source(facts, rng, wording) if all(facts.seen_count[k] >= 2 for k in a.targets)]
        rng.shuffle(asked)
        # Different targets first, so that two instructions of a kind rarely ask for the same objects.
        taken: list[Instruction] = []
        for again in (False, True):
            for a in asked:
                if len(taken) == limit_per_kind:
                    break
                if not again and a.targets and any(a.targets == t.targets for t in taken):
                    continue
                text = rng.choice(a.phrases.of(wording)).format(**a.slots)
                if all(text != t.text for t in taken):
                    taken.append(Instruction(kind, CATEGORY[kind], text, a.targets))
        found += taken
    return found


def segment_request(text: str, rng: random.Random) -> str:
    """A person's request for an instruction's targets. Questions stay unchanged."""
    return text if text.endswith("?") else rng.choice(REQUEST_SEGMENT_TEMPLATES).format(expression=text)


def caption_requests(split: str) -> list[str]:
    """Sentences that request a caption of a given trajectory."""
    return list(dict.fromkeys(say.CAPTION_REQUESTS.of(split)))


def short_caption(obj: SceneObject) -> str:
    """Size, colour, shape and motion: "a small red circle moving left"."""
    return f"a {obj.size} {obj.colour} {obj.shape} {say.CAPTION_MOTION[obj.motion]}"


def reference_caption(scene: Scene, k: int, facts: Facts | None = None) -> str:
    """short_caption plus the object's visible events: ", it leaves the picture"."""
    facts = facts or Facts(scene)
    clauses = [short_caption(scene.objects[k])]
    if facts.enters[k]:
        clauses.append(say.CAPTION_EVENTS["enters"])
    for j, behind in enumerate(facts.behind[k]):
        if behind:
            o = scene.objects[j]
            clauses.append(say.CAPTION_EVENTS["behind"].format(o=f"{o.size} {o.colour} {o.shape}"))
    if facts.leaves[k]:
        clauses.append(say.CAPTION_EVENTS["leaves"])
    return ", ".join(clauses)


def parse_caption(text: str) -> dict[str, str | None]:
    """Size, colour, shape and motion from a caption's first clause; None for those it does not name."""
    clause = text.lower().split(",")[0]
    tokens = words(clause)

    def first(options: Sequence[str]) -> str | None:
        return next((t for t in tokens if t in options), None)

    sentence = " ".join(tokens)
    motion = next((m for m, phrase in say.CAPTION_MOTION.items() if f" {phrase} " in f" {sentence} "), None)
    return {"size": first(SIZES), "colour": first(COLOURS), "shape": first(SHAPES), "motion": motion}
