"""What a chooser may answer: a JSON schema for a served model, and the same as a regular expression for a local one.

A local model is held to the expression token by token: of the tokens that it likes best, the first one is taken that
the expression can still go on from. This needs no list of the vocabulary, so it works with any tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import regex

VERDICTS = ("accept", "reject", "doubtful")
PHRASE = r"[^\p{C}\"\\\[\]{}]"
"""A character of free text in an answer: printable, and nothing that JSON would have to escape."""

_TEXT = r'[^"\\\[\]{}\x00-\x1f]'


@dataclass(frozen=True)
class Grammar:
    """Answers of one kind.

    Args:
        name: of the kind, such as "verdicts".
        pattern: regular expression of every whole answer.
        schema: JSON schema of the same answers.
    """

    name: str
    pattern: str
    schema: Mapping[str, Any]

    def can_go_on(self, text: str) -> bool:
        """Whether `text` is the beginning of an answer, or a whole one."""
        return regex.fullmatch(self.pattern, text, partial=True) is not None

    def is_whole(self, text: str) -> bool:
        """Whether `text` is an answer."""
        return regex.fullmatch(self.pattern, text) is not None

    def normalised(self, text: str) -> str | None:
        """An answer whose JSON is spaced in another way, in the form that the pattern has; None if it is none."""
        try:
            plain = json.dumps(json.loads(text), ensure_ascii=False)
        except ValueError:
            return None
        return plain if self.is_whole(plain) else None


def verdict_grammar(numbers: Sequence[int], length: int = 80) -> Grammar:
    """A few words and a verdict on each candidate, in the order of `numbers`: {"1": "a black dog that runs: accept"}.

    The words come first, so that the verdict is on what has been put into words.
    """
    verdicts = "|".join(VERDICTS)
    pairs = ", ".join(f'"{number}": "{PHRASE}{{1,{length}}}: ({verdicts})"' for number in numbers)
    text = {"type": "string", "pattern": rf"^{_TEXT}{{1,{length}}}: ({verdicts})$"}
    return Grammar("verdicts", r"\{" + pairs + r"\}", _object({str(number): text for number in numbers}))


def phrases_grammar(most: int = 3, length: int = 40) -> Grammar:
    """One to `most` noun phrases: {"phrases": ["dog"]}."""
    phrase = f'"{PHRASE}{{1,{length}}}"'
    text = _text(length)
    return Grammar(
        "phrases",
        rf'\{{"phrases": \[{phrase}(, {phrase}){{0,{most - 1}}}\]\}}',
        _object({"phrases": {"type": "array", "items": text, "minItems": 1, "maxItems": most}}),
    )


def boxes_grammar(most: int = 5) -> Grammar:
    """At most so many boxes of four whole numbers: {"boxes": [[10, 20, 300, 400]]}."""
    box = r"\[\d{1,4}, \d{1,4}, \d{1,4}, \d{1,4}\]"
    number = {"type": "integer", "minimum": 0, "maximum": 9999}
    four = {"type": "array", "items": number, "minItems": 4, "maxItems": 4}
    return Grammar(
        "boxes",
        rf'\{{"boxes": \[({box}(, {box}){{0,{most - 1}}})?\]\}}',
        _object({"boxes": {"type": "array", "items": four, "maxItems": most}}),
    )


def caption_grammar(length: int = 160) -> Grammar:
    """One sentence: {"caption": "a dog that runs"}."""
    text = _text(length)
    return Grammar("caption", rf'\{{"caption": "{PHRASE}{{1,{length}}}"\}}', _object({"caption": text}))


def _text(length: int) -> dict[str, Any]:
    # `maxLength` alone would let control characters through.
    return {"type": "string", "minLength": 1, "pattern": rf"^{_TEXT}{{1,{length}}}$"}


def verdict_answer(verdicts: Mapping[int, tuple[str, str]]) -> str:
    """The answer that says these words and verdicts, in the form that the grammar has."""
    return json.dumps({str(number): ": ".join(said) for number, said in verdicts.items()}, ensure_ascii=False)


def read_verdicts(answer: str) -> dict[int, tuple[str, str]]:
    """The words and the verdict on each number, of an answer that the grammar has."""
    pairs = {int(number): said.rpartition(": ") for number, said in json.loads(answer).items()}
    return {number: (words, verdict) for number, (words, _, verdict) in pairs.items()}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
