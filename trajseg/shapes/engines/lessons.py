"""Lessons for a chooser: candidates as `grounded` would find them in a scene, questions, and correct answers."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trajseg.engines.grounded.dialogue import caption_answer, phrases_answer
from trajseg.engines.grounded.facts import MOMENTS, TrackFacts, scene_facts
from trajseg.engines.grounded.grammar import read_verdicts, verdict_answer
from trajseg.shapes.engines.near_misses import near_miss
from trajseg.shapes.world.facts import Facts
from trajseg.shapes.world.language import Instruction, instructions, reference_caption, segment_request, short_caption
from trajseg.shapes.world.phrases import MOTION, PLURALS, words
from trajseg.shapes.world.scenes import (
    COLOURS,
    HELD_OUT,
    MOTIONS,
    SHAPES,
    SIZES,
    Scene,
    bin_centres,
    sample_scene,
)
from trajseg.tracks.rle import Box

SINGULAR = {**{shape: shape for shape in SHAPES}, **{plural: shape for shape, plural in PLURALS.items()}}
OPEN = ("object", "objects", "one", "ones", "everything", "those")
"""Words that may refer to any shape."""
CONCEPTS = 0.06
"""Share of lessons that ask for the nouns of sentences; these are short."""
MISREAD = -1
"""Marks a candidate whose colour is replaced by another one in the teacher-forced answer."""
SIDES = ("left", "right", "above", "below", "leftmost", "rightmost", "topmost", "bottommost")
"""Places that a sentence may state: relative to another object, or among all of them."""
SAID_OUTERMOST = {
    "leftmost": "leftmost|furthest (to the )?left",
    "rightmost": "rightmost|furthest (to the )?right",
    "topmost": "topmost|highest",
    "bottommost": "bottommost|lowest",
}
NOTHING = "nothing"
"""Answer to a false alarm."""
WEIGHTS = {"none": 4.0, "attribute": 4.0, "motion": 3.0, "place": 12.0, "knowledge": 1.0, "event": 1.0, "several": 0.5}
"""Sampling weights of the kinds of sentences; other kinds have OTHERWISE. The proof needs sentences that refer to one
object, and those that refer to none."""
OTHERWISE = 0.15
MISTAKEN = 0.2
"""Share of objects of other shapes that the detector reports as well (false positives): its threshold is low."""
NEAR_MISSES = 0.25
"""Share of lessons whose sentence is a near miss; see near_misses."""
OUTERMOST = 0.4
"""Share of sentences about the outermost object on a side that are kept: each scene has up to four of them."""
REQUESTED, CHATTY = 0.3, 0.5
"""Shares of sentences that are wrapped in a request, and that contain filler words."""
CHAFF = [
    "please",
    "that",
    "is",
    "in",
    "this",
    "video",
    "picture",
    "the",
    "there",
    "which",
    "find",
    "show",
    "segment",
    "of",
    "it",
    "can",
    "you",
    "here",
    "only",
    "mask",
    "see",
    "look",
    "where",
    "coloured",
    "colour",
    "such",
    "sure",
]
"""Filler words: anywhere in a sentence about looks, motion or place they do not change its meaning. People use more
wordings than a list of templates has, and a model trained only on templates relies on them."""


@dataclass(frozen=True)
class LessonCandidate:
    """A candidate of a lesson.

    Args:
        k: index of the object in the scene; None for a false alarm.
        moment: 0-based frame of its portrait.
        box: of its portrait, in units of the picture's height.
        looks: colour, shape, size and motion as indices into the world's tuples; empty for a false alarm.
    """

    k: int | None
    phrase: str
    facts: TrackFacts
    moment: int
    box: Box
    looks: tuple[int, ...]


@dataclass(frozen=True)
class Lesson:
    """Candidates of a scene, and questions about them with their answers.

    Args:
        turns: (kind of question, instruction or candidate's number, answer).
        shown: the candidates are shown before the first question; otherwise only the answers describe them.
        unnamed: for each candidate the look that has no name (0: colour, 1: shape), MISREAD, or None; empty if all
            looks are named and read correctly.
    """

    scene: Scene
    width: int
    candidates: list[LessonCandidate]
    turns: list[tuple[str, str, str]]
    shown: bool = True
    unnamed: Sequence[int | None] = ()


def concepts_of(text: str) -> list[str]:
    """The nouns that a detector should look for: the shapes that a sentence names, or "object" if it leaves the shape
    open."""
    said = words(text)
    shapes = list(dict.fromkeys(SINGULAR[word] for word in said if word in SINGULAR))
    open_too = any(word in OPEN for word in said)
    return ["object"] if open_too or not shapes or len(shapes) > 3 else shapes


def asked_outermost(text: str) -> str | None:
    """The side on which a sentence asks for the outermost object, one of SIDES; None if it does not."""
    return next((side for side, said in SAID_OUTERMOST.items() if re.search(rf"\b({said})\b", text)), None)


def asked_side(text: str) -> int:
    """The index in SIDES of the place that a sentence states, in any wording; len(SIDES) if it states none."""
    if side := asked_outermost(text):
        return SIDES.index(side)
    said = re.search(r"\b(left|right)( \w+){0,2} of\b|\b(above|below)\b", text)
    return SIDES.index(said[1] or said[3]) if said else len(SIDES)


def place_words(facts: TrackFacts, side: str) -> str:
    """A candidate's place along the axis of `side`, from its facts: "leftmost" or the like, or "other"."""
    axis = SIDES[4:6] if side in SIDES[4:6] else SIDES[6:]
    return next((each for each in axis if each in facts.outermost.split()), "other")


def asked_looks(text: str) -> tuple[int, int, int, int, int]:
    """Colour, shape, size, motion and side that a sentence states, as indices into the world's tuples and SIDES.

    An attribute that it does not state has the length of its tuple. Words after the first noun describe another object,
    except for a colour directly after the noun, and the motion.
    """
    said = words(text)
    nouns = [place for place, word in enumerate(said) if word in SINGULAR or word in OPEN]
    head = said[: nouns[0] + 1] if nouns else said
    if nouns and said[nouns[0] + 1 : nouns[0] + 3] and any(w in said for w in ("coloured", "in")):
        head = [*head, *(word for word in said[nouns[0] + 1 : nouns[0] + 4] if word in COLOURS)]
    head += said[nouns[0] + 1 : nouns[0] + 4] if nouns and said[nouns[0] + 1 : nouns[0] + 3] == ["that", "is"] else []
    motions = [motion for motion, phrases in MOTION.items() if any(phrase in text for phrase in phrases.all())]
    return (
        next((COLOURS.index(word) for word in head if word in COLOURS), len(COLOURS)),
        next((SHAPES.index(SINGULAR[word]) for word in head if word in SINGULAR), len(SHAPES)),
        next((SIZES.index(word) for word in head if word in SIZES), len(SIZES)),
        MOTIONS.index(motions[0]) if len(motions) == 1 else len(MOTIONS),
        asked_side(text),
    )


def put(one: Instruction, rng: random.Random) -> str:
    """The sentence as a person may type it: wrapped in a request, or with filler words."""
    text = one.text
    if rng.random() < CHATTY:
        said = text.split()
        for _ in range(rng.randint(1, 3)):
            said.insert(rng.randint(0, len(said)), rng.choice(CHAFF))
        if said[0] == "the" and rng.random() < 0.3:
            said.pop(0)
        text = " ".join(said)
    return segment_request(text, rng) if rng.random() < REQUESTED else text


def draw_lesson(rng: random.Random, turns: int = 1) -> Lesson | None:
    """A lesson from a random scene of the training split; None if the scene offers no instruction."""
    scene = sample_scene(rng.getrandbits(40), "train")
    facts = Facts(scene)
    asked = instructions(scene, rng, limit_per_kind=3, facts=facts)
    if not asked:
        return None
    concepts = ["object"]
    if rng.random() < 0.45:
        concepts = concepts_of(rng.choice(asked).text)
    asked = [one for one in asked if concepts == ["object"] or set(concepts_of(one.text)) <= set(concepts)]
    asked += _absent(scene, concepts, rng)
    like: int | None = None
    if rng.random() < NEAR_MISSES and (near := near_miss(scene, facts, rng)) is not None:
        like, one = near
        concepts, asked = concepts_of(one.text), [one]
    candidates = _candidates(scene, facts, concepts, rng, like)
    numbers = {one.k: place for place, one in enumerate(candidates, 1) if one.k is not None}
    lesson: list[tuple[str, str, str]] = []
    if candidates:
        asked = [one for one in asked if _place_shows(one, candidates, numbers, rng)]
        for one in _drawn(asked, rng, turns):
            # An object without a candidate cannot be chosen.
            verdicts = {
                place: (
                    described(scene, each, asked_outermost(one.text)),
                    "accept" if each.k is not None and each.k in one.targets else "reject",
                )
                for place, each in enumerate(candidates, 1)
            }
            lesson.append(("choose", put(one, rng), verdict_answer(verdicts)))
        able = [k for k in numbers if facts.moves_visibly[k]]
        for k in rng.sample(able, min(int(rng.random() < 0.15), len(able))):
            lesson.append(("caption", str(numbers[k]), caption_answer(reference_caption(scene, k, facts))))
        rng.shuffle(lesson)
    if not lesson or rng.random() < CONCEPTS:
        open_to_all = instructions(scene, rng, limit_per_kind=2, facts=facts)
        chosen = rng.sample(open_to_all, min(len(open_to_all), 6)) or asked
        lesson = [("concepts", put(one, rng), phrases_answer(concepts_of(one.text))) for one in chosen]
        candidates = []
    return Lesson(scene, round(100 * scene.aspect), candidates, lesson)


def described(scene: Scene, candidate: LessonCandidate, side: str | None) -> str:
    """The description of a candidate in an answer, before the verdict: "a small red circle moving left".

    Args:
        side: on which the sentence asks for the outermost object; the candidate's place is appended: ", topmost".
    """
    if candidate.k is None:
        return NOTHING
    text = short_caption(scene.objects[candidate.k])
    return text if side is None else f"{text}, {place_words(candidate.facts, side)}"


def _place_shows(
    one: Instruction, candidates: Sequence[LessonCandidate], numbers: dict[int, int], rng: random.Random
) -> bool:
    """Whether to keep a sentence; one about the outermost object on a side must agree with the candidates' facts."""
    side = asked_outermost(one.text)
    if one.kind != "place" or side is None:
        return True
    meant = [candidates[numbers[k] - 1].facts for k in one.targets if k in numbers]
    return rng.random() < OUTERMOST and all(place_words(facts, side) == side for facts in meant)


def draw_matching(rng: random.Random) -> Lesson | None:
    """A short lesson on matching words: one candidate, described but not shown, and one sentence."""
    lesson = draw_lesson(rng)
    if lesson is None:
        return None
    able = [place for place, (kind, _, _) in enumerate(lesson.turns) if kind == "choose"]
    able = [place for place in able if _by_words(lesson.turns[place][1])]
    if not able:
        return None
    kind, said, answer = lesson.turns[rng.choice(able)]
    verdicts = read_verdicts(answer)
    accepted = [number for number, (_, verdict) in verdicts.items() if verdict == "accept"]
    number = rng.choice(accepted) if accepted and rng.random() < 0.5 else rng.choice(list(verdicts))
    only = verdict_answer({1: verdicts[number]})
    return Lesson(lesson.scene, lesson.width, [lesson.candidates[number - 1]], [(kind, said, only)], shown=False)


def _by_words(text: str) -> bool:
    """Whether a sentence can be judged from the description of one candidate."""
    return asked_side(text) < len(SIDES) or not any(
        word in text for word in ("start", "than", "est", "enter", "leav", "hidden", "behind", "late", "first")
    )


def _drawn(asked: list[Instruction], rng: random.Random, count: int) -> list[Instruction]:
    """Up to `count` sentences, sampled without replacement by the weight of their kind."""
    keyed = sorted(asked, key=lambda one: rng.random() ** (1 / WEIGHTS.get(one.kind, OTHERWISE)), reverse=True)
    return keyed[:count]


def _absent(scene: Scene, concepts: list[str], rng: random.Random) -> list[Instruction]:
    """Sentences about a shape in a colour or size that no object of the scene has.

    Pairs of the test split are left out: in training they would occur only as absent objects.
    """
    found = []
    shapes = list(SHAPES) if concepts == ["object"] else [name for name in concepts if name in SHAPES]
    for _ in range(2):
        shape, colour, size = rng.choice(shapes), rng.choice(COLOURS), rng.choice(["", "", *SIZES])
        if (colour, shape) in HELD_OUT:
            continue
        if not any(o.shape == shape and o.colour == colour and size in ("", o.size) for o in scene.objects):
            text = f"the {size} {colour} {shape}".replace("  ", " ")
            found.append(Instruction("none", "none", text, ()))
    return found


def _candidates(
    scene: Scene, facts: Facts, concepts: list[str], rng: random.Random, like: int | None = None
) -> list[LessonCandidate]:
    """The candidates that a search would find, in random order, with noise on their boxes.

    Args:
        like: an object that is always found, whatever its shape.
    """
    drawn: list[_Drawn] = []
    least = rng.uniform(0.05, 0.25)
    for k, o in enumerate(scene.objects):
        named = concepts == ["object"] or o.shape in concepts
        if not named and k != like and rng.random() >= MISTAKEN:
            continue
        if rng.random() < 0.02:
            continue
        boxes: list[Box | None] = []
        for moment in range(MOMENTS):
            left, top, right, bottom = facts.xyxy[k, moment].tolist()
            seen = facts.visible[k, moment] >= least and right > left and rng.random() > 0.02
            off = [rng.gauss(0, 0.006) for _ in range(4)]
            found_box = (left + off[0], top + off[1], right - left + off[2], bottom - top + off[3])
            boxes.append(found_box if seen else None)
        looks = (
            COLOURS.index(o.colour),
            SHAPES.index(o.shape),
            SIZES.index(o.size),
            MOTIONS.index(o.motion),
        )
        phrase = "object" if concepts == ["object"] else o.shape if named else rng.choice(concepts)
        drawn.append((k, phrase, boxes, looks))
    if rng.random() < 0.08:
        drawn.append((None, rng.choice(concepts), _nothing(scene, rng), ()))
    drawn = [one for one in drawn if any(one[2])]
    rng.shuffle(drawn)
    found: list[LessonCandidate] = []
    moments = bin_centres(scene.frame_count, MOMENTS)
    for one, track_facts in zip(drawn, scene_facts([each[2] for each in drawn], 1.0), strict=True):
        found.append(_candidate(one, track_facts, facts, moments, rng))
    return found


_Drawn = tuple[int | None, str, list[Box | None], tuple[int, ...]]


def _candidate(
    drawn: _Drawn, track_facts: TrackFacts, facts: Facts, moments: np.ndarray, rng: random.Random
) -> LessonCandidate:
    """A candidate with its portrait from roughly the moment that shows it best."""
    k, phrase, boxes, looks = drawn
    shares = [1.0] * MOMENTS if k is None else facts.visible[k].tolist()
    _, best, box = max((shares[at] + rng.random() * 0.1, at, box) for at, box in enumerate(boxes) if box)
    return LessonCandidate(k, phrase, track_facts, int(moments[best]), box, looks)


def _nothing(scene: Scene, rng: random.Random) -> list[Box | None]:
    """The boxes of a false alarm: a piece of background."""
    side = rng.uniform(0.05, 0.3)
    box = (rng.uniform(0, scene.aspect - side), rng.uniform(0, 1 - side), side, side)
    boxes: list[Box | None] = [box if rng.random() < 0.5 else None for _ in range(MOMENTS)]
    boxes[rng.randrange(MOMENTS)] = box
    return boxes
