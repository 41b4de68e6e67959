"""The questions to a chooser: turns of text and pictures, each with the grammar of its answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from trajseg.engines.grounded.facts import TrackFacts
from trajseg.engines.grounded.grammar import (
    Grammar,
    boxes_grammar,
    caption_grammar,
    phrases_grammar,
    verdict_answer,
    verdict_grammar,
)
from trajseg.engines.grounded.prompts import Part, Prompts, joined


@dataclass(frozen=True)
class ShownCandidate:
    """One candidate as shown to a chooser: its number, the detector's phrase, facts, and a portrait RGB [s, s, 3]."""

    number: int
    phrase: str
    facts: TrackFacts
    portrait: np.ndarray


@dataclass(frozen=True)
class ShownFrame:
    """A moment: seconds, the frame, and the frame with numbered outlines, RGB uint8 [H, W, 3]."""

    time: float
    clean: np.ndarray
    outlined: np.ndarray


@dataclass(frozen=True)
class Scene:
    """What a chooser sees of a clip.

    Args:
        duration: of the clip, seconds.
        width: of the picture, in percent of its height.
        moments: seconds for which positions are given.
    """

    duration: float
    width: int
    moments: Sequence[float]
    candidates: Sequence[ShownCandidate]
    frames: Sequence[ShownFrame] = field(default=())


@dataclass(frozen=True)
class Question:
    """One turn for a chooser and the grammar of its answer."""

    parts: list[Part]
    grammar: Grammar
    most_tokens: int = 128
    """Longest answer, tokens; the grammar's longest one is shorter."""


def concepts_question(prompts: Prompts, instruction: str) -> Question:
    """Asks which noun phrases a detector should look for."""
    return Question(prompts.parts("concepts", {"instruction": instruction}), phrases_grammar())


def choose_question(prompts: Prompts, scene: Scene, instruction: str) -> Question:
    """Asks which of the candidates the instruction refers to."""
    return Question(
        joined([*scene_parts(prompts, scene), *choose_parts(prompts, scene, instruction)]),
        verdict_grammar([candidate.number for candidate in scene.candidates]),
        most_tokens=32 + 48 * len(scene.candidates),
    )


def caption_question(prompts: Prompts, scene: Scene, number: int) -> Question:
    """Asks what a candidate is and does."""
    parts = [*scene_parts(prompts, scene), *prompts.parts("caption", {"number": str(number)})]
    return Question(joined(parts), caption_grammar(), most_tokens=192)


def boxes_question(prompts: Prompts, picture: np.ndarray, instruction: str, unit: str) -> Question:
    """Asks where in a picture the instruction's object is; see trajseg.engines.grounded.pointing."""
    return Question(
        prompts.parts("boxes", {"picture": picture, "instruction": instruction, "unit": unit}), boxes_grammar()
    )


def choose_parts(prompts: Prompts, scene: Scene, instruction: str) -> list[Part]:
    """The end of the turn that asks for verdicts."""
    example = verdict_answer({one.number: ("a few words on it", "reject") for one in scene.candidates})
    return prompts.parts("choose", {"instruction": instruction, "example": example})


def scene_parts(prompts: Prompts, scene: Scene) -> list[Part]:
    """The start of every turn about a scene."""
    times = ", ".join(f"{time:.1f}" for time in scene.moments)
    values: dict[str, Part] = {"duration": f"{scene.duration:.1f}", "width": str(scene.width), "moments": times}
    parts = prompts.parts("scene", values)
    for frame in scene.frames:
        parts += prompts.parts("frame", {"time": f"{frame.time:.1f}", "clean": frame.clean, "outlined": frame.outlined})
    for one in scene.candidates:
        shown: dict[str, Part] = {"number": str(one.number), "phrase": one.phrase, "portrait": one.portrait}
        parts += prompts.parts("candidate", shown | asdict(one.facts))
    return parts


def phrases_answer(phrases: Sequence[str]) -> str:
    """The answer with these phrases."""
    return json.dumps({"phrases": list(phrases)}, ensure_ascii=False)


def caption_answer(caption: str) -> str:
    """The answer with this caption."""
    return json.dumps({"caption": caption}, ensure_ascii=False)
