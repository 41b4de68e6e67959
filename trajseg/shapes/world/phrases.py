"""The wording of the shapes world: every phrase of its instructions, captions and requests, in one place."""

from __future__ import annotations

import re
from typing import NamedTuple

from trajseg.shapes.world.scenes import COLOURS, SHAPES, SIZES

TOKEN = re.compile(r"[a-z0-9']+|[,.?;]")
"""A word of the closed vocabulary, in lower-cased text."""


class Phrases(NamedTuple):
    """Alternative wordings: for all splits, only for train and val, only for test."""

    common: tuple[str, ...]
    train: tuple[str, ...]
    test: tuple[str, ...]

    def of(self, split: str) -> tuple[str, ...]:
        """The wordings of a split; test uses its own twice as often."""
        return self.common + self.test * 2 if split == "test" else self.common + self.train

    def all(self) -> tuple[str, ...]:
        return self.common + self.train + self.test


PLURALS = {s: s + "es" if s == "cross" else s + "s" for s in SHAPES}

# {d} is a description without article, such as "small red circle", "circle", "red object".
ATTRIBUTE = Phrases(("the {d}",), ("the only {d}", "{d}"), ("the {d} in this video", "the {d} that is in the picture"))
COLOUR_AFTER = Phrases(("the {s} that is {c}",), ("the {s} coloured {c}",), ("the {s} in {c}",))

# Clauses behind "the circle" or "the red object".
MOTION = {
    "left": Phrases(("moving left", "moving to the left"), ("that moves left",), ("heading to the left",)),
    "right": Phrases(("moving right", "moving to the right"), ("that moves right",), ("heading to the right",)),
    "up": Phrases(("moving up", "that moves up"), ("moving upwards",), ("heading up",)),
    "down": Phrases(("moving down", "that moves down"), ("moving downwards",), ("heading down",)),
    "still": Phrases(("not moving", "that does not move"), ("that stays still",), ("that is still",)),
    "circling": Phrases(("moving in a circle", "circling"), ("going round in a circle",), ("that is circling",)),
    "bouncing": Phrases(("bouncing", "that bounces"), ("bouncing up and down",), ("that is bouncing",)),
}
MOTION_OF_ONE = Phrases(("the {d} {m}",), ("the only {d} {m}",), ("the {d} {m} in this video",))

# Clauses behind "the star", with the name of another object.
PLACE = {
    "left": Phrases(
        ("left of the {o} at the start", "to the left of the {o} at the start"),
        ("that starts left of the {o}",),
        ("that is left of the {o} at the start",),
    ),
    "right": Phrases(
        ("right of the {o} at the start", "to the right of the {o} at the start"),
        ("that starts right of the {o}",),
        ("that is right of the {o} at the start",),
    ),
    "above": Phrases(
        ("above the {o} at the start",),
        ("that starts above the {o}",),
        ("that is above the {o} at the start",),
    ),
    "below": Phrases(
        ("below the {o} at the start",),
        ("that starts below the {o}",),
        ("that is below the {o} at the start",),
    ),
}
EXTREME = {
    "left": Phrases(
        ("the leftmost object at the start",),
        ("the object furthest to the left at the start",),
        ("the one furthest left at the start",),
    ),
    "right": Phrases(
        ("the rightmost object at the start",),
        ("the object furthest to the right at the start",),
        ("the one furthest right at the start",),
    ),
    "above": Phrases(
        ("the topmost object at the start",),
        ("the highest object at the start",),
        ("the one that starts highest",),
    ),
    "below": Phrases(
        ("the bottommost object at the start",),
        ("the lowest object at the start",),
        ("the one that starts lowest",),
    ),
}

ORDER = {
    "enters last": Phrases(
        ("the object that enters last", "the one that enters last"),
        ("which object enters last?",),
        ("the last object that enters",),
    ),
    "leaves first": Phrases(
        ("the object that leaves first", "the one that leaves first"),
        ("which object leaves first?",),
        ("the first object that leaves",),
    ),
    "enters first": Phrases(
        ("of those that enter late, the first one",),
        ("of the objects that enter late, the first",),
        ("the first of those that enter late",),
    ),
    "leaves last": Phrases(
        ("of those that leave, the last one",),
        ("of the objects that leave, the last",),
        ("the last of those that leave",),
    ),
    "second from the left": Phrases(
        ("the second object from the left at the start",),
        ("the second from the left at the start",),
        ("the second one from the left at the start",),
    ),
    "second from the right": Phrases(
        ("the second object from the right at the start",),
        ("the second from the right at the start",),
        ("the second one from the right at the start",),
    ),
}

# {n} is "object", "circle" or "red object": the group that is compared.
COMPARISON = {
    "largest": Phrases(
        ("the largest {n}", "the {n} that is larger than every other {n}"),
        ("the biggest {n}",),
        ("the {n} that is largest",),
    ),
    "smallest": Phrases(
        ("the smallest {n}", "the {n} that is smaller than every other {n}"),
        ("which {n} is smallest?",),
        ("the {n} that is smallest",),
    ),
    "fastest": Phrases(
        ("the fastest {n}", "the {n} that moves fastest"),
        ("which {n} is fastest?",),
        ("the {n} that is fastest",),
    ),
    "slowest": Phrases(
        ("the slowest moving {n}", "of the moving ones, the slowest {n}"),
        ("the {n} that moves, but slowest",),
        ("of those that move, the slowest {n}",),
    ),
}

EVENT = {
    "enters": Phrases(
        ("the {d} that enters late", "the {d} that is not there at the start"),
        ("the {d} that appears later",),
        ("the {d} entering late",),
    ),
    "leaves": Phrases(
        ("the {d} that leaves the picture", "the {d} that is gone at the end"),
        ("the {d} that leaves before the end",),
        ("the {d} leaving the picture",),
    ),
    "passes behind": Phrases(
        ("the {d} that passes behind the {o}", "the {d} passing behind the {o}"),
        ("the {d} that goes behind the {o}",),
        ("the {d} going behind the {o}",),
    ),
    "passes behind any": Phrases(
        ("the {d} that passes behind another one",),
        ("the {d} that is hidden for a while",),
        ("the {d} passing behind another one",),
    ),
}

KNOWN_SHAPES = {
    "circle": ("like the full moon", "like a ball"),
    "square": ("with four corners", "with four equal sides"),
    "triangle": ("with three corners", "with three sides"),
    "star": ("with five points", "like those in the night sky"),
    "cross": ("like a plus sign", "with four arms"),
    "ring": ("with a hole in it", "like a doughnut"),
}
KNOWN_COLOURS = {
    "red": ("a tomato", "blood"),
    "green": ("grass", "a frog"),
    "blue": ("the deep sea", "a blueberry"),
    "yellow": ("a lemon", "a banana"),
    "purple": ("a grape", "an eggplant"),
    "orange": ("a carrot", "a pumpkin"),
    "cyan": ("a swimming pool", "turquoise"),
    "white": ("snow", "milk"),
}
KNOWLEDGE_SHAPE = Phrases(("the {a}shape {k}", "the {a}one {k}"), ("the {a}object {k}",), ("the only {a}shape {k}",))
KNOWLEDGE_COLOUR = Phrases(
    ("the {n} coloured like {k}", "the {n} that has the colour of {k}"),
    ("the {n} with the colour of {k}",),
    ("the {n} in the colour of {k}",),
)

# Nouns and clauses for two or more objects.
SEVERAL_DESCRIBED = Phrases(("all {p}", "all the {p}"), ("every one of the {p}", "the {p}"), ("all of the {p}",))


def _several_moving(participle: str, moves: str, move: str, heading: str = "") -> Phrases:
    return Phrases(
        (f"all objects {participle}", f"everything that {moves}"),
        (f"those that {move}", f"every object {heading or participle}"),
        (f"all the objects that {move}", f"every object that {moves}"),
    )


SEVERAL_MOTION = {
    **{
        way: _several_moving(f"moving {way}", f"moves {way}", f"move {way}", f"heading {way}")
        for way in ("left", "right", "up", "down")
    },
    "still": _several_moving("not moving", "does not move", "do not move", "that stays still"),
    "circling": _several_moving("moving in a circle", "moves in a circle", "move in a circle", "circling"),
    "bouncing": _several_moving("bouncing", "bounces", "bounce"),
    "any": _several_moving("moving", "moves", "move", "that is moving"),
}
SEVERAL_EVENT = {
    "enters": Phrases(
        ("everything that enters late",),
        ("those that enter late", "all objects entering late"),
        ("all objects that enter late",),
    ),
    "leaves": Phrases(
        ("everything that leaves the picture",),
        ("those that leave the picture", "all objects leaving the picture"),
        ("all objects that leave the picture",),
    ),
}

REQUEST_SEGMENT_TEMPLATES = (
    "{expression}",
    "{expression}",
    "segment {expression}.",
    "please segment {expression} in this video.",
    "can you segment {expression} in this video?",
    "find {expression}.",
    "please show the mask of {expression}.",
    "where is {expression}?",
)
"""Requests with an expression, for training; questions are sent unchanged, see segment_request."""

CAPTION_REQUESTS = Phrases(
    (
        "describe the object in this trajectory.",
        "what is the object in this trajectory?",
        "please describe this trajectory.",
    ),
    ("what does the object look like and how does it move?", "which object is this and what does it do?"),
    (
        "how does this object look and how does it move?",
        "please describe what the object in this trajectory does.",
    ),
)

CAPTION_MOTION = {
    **{way: f"moving {way}" for way in ("left", "right", "up", "down")},
    "still": "not moving",
    "circling": "moving in a circle",
    "bouncing": "bouncing",
}
CAPTION_EVENTS = {
    "enters": "it enters late",
    "leaves": "it leaves the picture",
    "behind": "it passes behind the {o}",
}
NOTHING = "there is no such object."
"""The answer to an instruction that no object satisfies."""

_MORE_WORDS = (
    "yes no sure it is they are a an and or of in on at to with the there here this that these those video",
    "picture object objects shape shapes one ones trajectory mask answer i see none nothing both other",
    "another slow fast slowly quickly first second third last two three four five who what where which",
    "how many colour size",
)


def words(text: str) -> list[str]:
    """The words and punctuation of a text, lower-cased; anything else is dropped."""
    return TOKEN.findall(text.lower())


def every_phrase() -> list[str]:
    """All templates and all slot words of this module, in a fixed order."""
    found: list[str] = [*COLOURS, *SHAPES, *SIZES, *PLURALS.values(), *REQUEST_SEGMENT_TEMPLATES, NOTHING]
    tables: list[dict[str, Phrases]] = [
        MOTION,
        PLACE,
        EXTREME,
        ORDER,
        COMPARISON,
        EVENT,
        SEVERAL_MOTION,
        SEVERAL_EVENT,
    ]
    single = [ATTRIBUTE, COLOUR_AFTER, MOTION_OF_ONE, KNOWLEDGE_SHAPE, KNOWLEDGE_COLOUR]
    single += [SEVERAL_DESCRIBED, CAPTION_REQUESTS]
    for phrases in [*single, *(p for table in tables for p in table.values())]:
        found += phrases.all()
    for known in (KNOWN_SHAPES, KNOWN_COLOURS):
        found += [text for texts in known.values() for text in texts]
    return [*found, *CAPTION_MOTION.values(), *CAPTION_EVENTS.values(), *_MORE_WORDS]


def vocabulary() -> list[str]:
    """All words and punctuation of this world's texts, and the digits; sorted, without duplicates."""
    text = " ; , . ? ".join(re.sub(r"\{\w+\}", " ", phrase) for phrase in every_phrase())
    return sorted({*words(text), *"0123456789"})
