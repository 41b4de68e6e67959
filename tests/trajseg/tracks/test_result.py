"""A result's text for people."""

from __future__ import annotations

import pytest

from trajseg.tracks import plain


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("It is a red square [SEG].", "It is a red square."),
        ("there is no such object .", "there is no such object."),
        ("a ring [SEG] , a square [SEG]", "a ring, a square"),
        ("Looked for: dog.\n1. a brown dog (0.91)\n", "Looked for: dog.\n1. a brown dog (0.91)"),
        ("[SEG]", ""),
        ("", ""),
    ],
)
def test_people_read_an_answer_without_the_models_marks(answer: str, words: str) -> None:
    assert plain(answer) == words
