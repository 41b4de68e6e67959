"""Choosing: a chooser's verdicts on candidates, over several rounds, with a second look at doubtful ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from trajseg.engines.grounded.chooser import Chooser
from trajseg.engines.grounded.dialogue import Scene, choose_question
from trajseg.engines.grounded.grammar import read_verdicts
from trajseg.engines.grounded.prompts import Prompts

View = Callable[[Sequence[int], int], Scene]
"""Builds a scene of the candidates with these indices; the second argument counts how often it was shown before."""


@dataclass
class Choice:
    """What a chooser decided.

    Args:
        accepted: indices of the accepted candidates, with the share of rounds that accepted them, 0 to 1.
        doubtful: indices of those it could not decide on.
        words: its description of each candidate, from the last time it was shown, by index.
        said: its raw answers, one per question.
    """

    accepted: dict[int, float] = field(default_factory=dict)
    doubtful: list[int] = field(default_factory=list)
    words: dict[int, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


def choose(chooser: Chooser, prompts: Prompts, view: View, count: int, instruction: str, rounds: int = 1) -> Choice:
    """Selects from `count` candidates those that an instruction refers to.

    Args:
        rounds: how often all of them are shown; each round uses other frames, and the majority decides.

    Raises:
        TrajSegError: the chooser does not answer.
    """
    choice = Choice()
    if not count:
        return choice
    votes: list[dict[int, str]] = []
    for round_ in range(rounds):
        votes.append(_verdicts(chooser, prompts, view, range(count), instruction, round_, choice))
    share = {index: _share(votes, index, "accept") for index in range(count)}
    accepted = [index for index in range(count) if share[index] > 0.5]
    unsure = [
        index
        for index in range(count)
        if index not in accepted and share[index] + _share(votes, index, "doubtful") >= 0.5
    ]
    if unsure:
        second = _verdicts(chooser, prompts, view, unsure, instruction, rounds, choice)
        for index in unsure:
            if second[index] == "accept":
                share[index] = (share[index] * rounds + 1) / (rounds + 1)
                accepted.append(index)
            elif second[index] == "doubtful":
                choice.doubtful.append(index)
    choice.accepted = {index: share[index] for index in sorted(accepted)}
    return choice


def _verdicts(
    chooser: Chooser,
    prompts: Prompts,
    view: View,
    indices: Sequence[int],
    instruction: str,
    again: int,
    choice: Choice,
) -> dict[int, str]:
    answer = chooser.answer(choose_question(prompts, view(indices, again), instruction))
    choice.said.append(answer)
    read = read_verdicts(answer)
    choice.words |= {index: read[number][0].strip() for number, index in enumerate(indices, 1)}
    return {index: read[number][1] for number, index in enumerate(indices, 1)}


def _share(votes: Sequence[dict[int, str]], index: int, verdict: str) -> float:
    return sum(vote[index] == verdict for vote in votes) / len(votes)
