"""Grammars of a chooser's answers: a JSON schema for a served model, an equivalent regular expression for a local one.

A local model is constrained token by token: the likeliest token is taken with which the expression can still be
completed. This needs no list of the vocabulary, so it works with any tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import regex

VERDICTS = ("accept", "reject", "doubtful")
PHRASE = r"[^\p{C}\"\\\[\]{}]"
"""A character of free text in an answer: printable, and not escaped in JSON."""

_TEXT = r'[^"\\\[\]{}\x00-\x1f]'


@dataclass(frozen=True)
class Grammar:
    """The answers to one kind of question.

    Args:
        name: of the kind, such as "verdicts".
        pattern: regular expression of every complete answer.
        schema: JSON schema of the same answers.
    """

    name: str
    pattern: str
    schema: Mapping[str, Any]

    def can_go_on(self, text: str) -> bool:
        """Whether `text` is the beginning of an answer, or a complete one."""
        return regex.fullmatch(self.pattern, text, partial=True) is not None

    def is_whole(self, text: str) -> bool:
        """Whether `text` is a complete answer."""
        return regex.fullmatch(self.pattern, text) is not None

    def normalised(self, text: str) -> str | None:
        """An answer with different JSON spacing, in the pattern's form; None if it is not an answer."""
        try:
            plain = json.dumps(json.loads(text), ensure_ascii=False)
        except ValueError:
            return None
        return plain if self.is_whole(plain) else None


def verdict_grammar(numbers: Sequence[int], length: int = 80) -> Grammar:
    """A few words and a verdict for each candidate, in the order of `numbers`: {"1": "a black dog that runs: accept"}.

    The words come first, so that the verdict follows from the description.
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
    """At most `most` boxes of four whole numbers: {"boxes": [[10, 20, 300, 400]]}."""
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
    # `maxLength` alone would allow control characters.
    return {"type": "string", "minLength": 1, "pattern": rf"^{_TEXT}{{1,{length}}}$"}


def verdict_answer(verdicts: Mapping[int, tuple[str, str]]) -> str:
    """The answer with these words and verdicts, in the grammar's form."""
    return json.dumps({str(number): ": ".join(said) for number, said in verdicts.items()}, ensure_ascii=False)


def read_verdicts(answer: str) -> dict[int, tuple[str, str]]:
    """The words and the verdict for each number, from an answer in the grammar's form."""
    pairs = {int(number): said.rpartition(": ") for number, said in json.loads(answer).items()}
    return {number: (words, verdict) for number, (words, _, verdict) in pairs.items()}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
