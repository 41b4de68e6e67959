"""Grammars: the answers they allow, token by token and as a whole, and the equivalent schema."""

from __future__ import annotations

import json
import random
import re

import pytest

from trajseg.engines.grounded.grammar import (
    caption_grammar,
    phrases_grammar,
    read_verdicts,
    verdict_answer,
    verdict_grammar,
)


def test_verdicts_cover_exactly_the_candidates() -> None:
    grammar = verdict_grammar([1, 3])
    assert grammar.is_whole('{"1": "a dog: accept", "3": "a cat: it hides: doubtful"}')
    for wrong in (
        '{"1": "a dog: accept"}',
        '{"1": "a dog: accept", "2": "a cat: reject"}',
        '{"1": "a dog: accept", "3": "a cat: maybe"}',
        '{"1": "a dog: accept", "3": "reject"}',
        '{"1": "a dog: accept", "3": "a cat: reject"} ',
    ):
        assert not grammar.is_whole(wrong)


def test_exactly_the_prefixes_of_answers_can_continue() -> None:
    grammar = verdict_grammar([1, 2])
    answer = verdict_answer({1: ("a dog", "reject"), 2: ("eine Katze: grün", "accept")})
    assert read_verdicts(answer) == {1: ("a dog", "reject"), 2: ("eine Katze: grün", "accept")}
    assert all(grammar.can_go_on(answer[:end]) for end in range(len(answer) + 1))
    assert not grammar.can_go_on(answer + ",")
    assert not grammar.can_go_on('{"2')


@pytest.mark.parametrize("wrong", ['{"phrases": []}', '{"phrases": ["a", "b", "c", "d"]}', '{"phrases": ["a\n"]}'])
def test_phrases_are_one_to_three_printable_texts(wrong: str) -> None:
    grammar = phrases_grammar()
    assert grammar.is_whole('{"phrases": ["Hund", "rote Kugel"]}')
    assert grammar.is_whole('{"phrases": ["赤い 球"]}')
    assert not grammar.is_whole(wrong)


def test_free_text_cannot_break_the_json() -> None:
    grammar = caption_grammar()
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(chr(rng.choice((rng.randrange(32, 127), rng.randrange(0, 0x300)))) for _ in range(12))
        answer = f'{{"caption": "{text}"}}'
        if grammar.is_whole(answer):
            assert json.loads(answer)["caption"] == text


def test_json_spacing_is_normalised() -> None:
    assert verdict_grammar([1]).normalised('{ "1":"x: accept" }\n') == '{"1": "x: accept"}'
    assert verdict_grammar([1]).normalised('{"1": "x: accept", "2": "x: accept"}') is None
    assert verdict_grammar([1]).normalised("I accept 1.") is None


def test_schema_names_exactly_the_candidates() -> None:
    schema = verdict_grammar([1, 2]).schema
    assert schema["required"] == ["1", "2"]
    assert schema["additionalProperties"] is False
    pattern = schema["properties"]["1"]["pattern"]
    assert re.search(pattern, "a dog: doubtful")
    assert not re.search(pattern, "a dog: perhaps")
    assert not re.search(pattern, 'a "dog": accept')
