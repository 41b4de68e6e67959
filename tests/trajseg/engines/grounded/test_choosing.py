"""Rounds of questions, and a second question about doubtful candidates; the chooser is scripted."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from trajseg.engines.grounded.choosing import Choice, choose
from trajseg.engines.grounded.dialogue import Question, Scene, ShownCandidate
from trajseg.engines.grounded.facts import track_facts
from trajseg.engines.grounded.grammar import verdict_answer
from trajseg.engines.grounded.prompts import Prompts

PICTURE = np.zeros((4, 4, 3), np.uint8)


class ScriptedChooser:
    """A fake that gives verdicts by a script: one string of letters (a, r, d) for each question."""

    family = "qwen3_vl"

    def __init__(self, *script: str) -> None:
        self.script = list(script)
        self.asked: list[list[int]] = []

    def answer(self, question: Question) -> str:
        numbers = [int(number) for number in re.findall(r"Object (\d+) \(", str(question.parts))]
        letters = self.script.pop(0)
        self.asked.append(numbers)
        names = {"a": "accept", "r": "reject", "d": "doubtful"}
        answer = verdict_answer({n: (f"thing {n}", names[letter]) for n, letter in zip(numbers, letters, strict=True)})
        assert question.grammar.is_whole(answer)
        return answer


def decide(chooser: ScriptedChooser, count: int = 3, rounds: int = 1) -> tuple[Choice, list[tuple[list[int], int]]]:
    views: list[tuple[list[int], int]] = []

    def view(indices: Sequence[int], again: int) -> Scene:
        views.append((list(indices), again))
        facts = track_facts([(0, 0, 9, 9)], 90)
        return Scene(
            1.0, 100, [0.5], [ShownCandidate(number, "dog", facts, PICTURE) for number in range(1, len(indices) + 1)]
        )

    return choose(chooser, Prompts(), view, count, "the dog", rounds), views


def test_one_several_and_none() -> None:
    assert decide(ScriptedChooser("rar"))[0].accepted == {1: 1.0}
    assert decide(ScriptedChooser("aar"))[0].accepted == {0: 1.0, 1: 1.0}
    none, views = decide(ScriptedChooser("rrr"))
    assert (none.accepted, none.doubtful) == ({}, [])
    assert views == [([0, 1, 2], 0)]


def test_doubtful_candidates_are_shown_again_alone_and_on_other_frames() -> None:
    chooser = ScriptedChooser("ard", "a")
    choice, views = decide(chooser)
    assert views == [([0, 1, 2], 0), ([2], 1)]
    assert chooser.asked == [[1, 2, 3], [1]]
    assert choice.accepted == {0: 1.0, 2: 0.5}
    assert choice.words == {0: "thing 1", 1: "thing 2", 2: "thing 1"}


def test_remaining_doubt_is_reported() -> None:
    choice, _ = decide(ScriptedChooser("rdd", "dr"))
    assert (choice.accepted, choice.doubtful) == ({}, [1])


def test_majority_over_rounds_decides_and_agreement_is_reported() -> None:
    choice, views = decide(ScriptedChooser("ara", "arr", "aar", "r"), rounds=3)
    assert [again for _, again in views] == [0, 1, 2]
    assert choice.accepted == {0: 1.0}
    two_of_three, _ = decide(ScriptedChooser("arr", "arr", "rrr"), rounds=3)
    assert two_of_three.accepted == {0: 2 / 3}


def test_without_candidates_the_chooser_is_not_asked() -> None:
    assert decide(ScriptedChooser(), count=0)[0] == Choice()
