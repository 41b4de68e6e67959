"""A chooser's prompts are in files, which can be replaced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trajseg.engines.grounded.dialogue import Scene, ShownCandidate, ShownFrame, caption_question, choose_question
from trajseg.engines.grounded.facts import track_facts
from trajseg.engines.grounded.prompts import Prompts
from trajseg.errors import CheckpointError

PICTURE = np.zeros((8, 8, 3), np.uint8)
SCENE = Scene(
    duration=2.0,
    width=150,
    moments=(0.5, 1.5),
    candidates=[
        ShownCandidate(1, "dog", track_facts([(0, 0, 10, 10), (5, 0, 10, 10)], 100), PICTURE),
        ShownCandidate(2, "cat", track_facts([None, (50, 50, 10, 10)], 100), PICTURE),
    ],
    frames=[ShownFrame(0.5, PICTURE, PICTURE)],
)


def test_question_has_facts_and_pictures_in_order() -> None:
    question = choose_question(Prompts(), SCENE, "the dog that runs")
    text = "|".join(part if isinstance(part, str) else "PICTURE" for part in question.parts)
    assert text.count("PICTURE") == 4
    assert "At 0.5 s: |PICTURE| with" in text
    assert "Object 2 (cat): |PICTURE| not moving, there from start to end; at first number - from the left" in text
    assert "size 10 x 10, path - 55/55," in text
    assert text.index("Object 1") < text.index("Object 2") < text.index("the dog that runs")
    assert text.rstrip().endswith('{"1": "a few words on it: reject", "2": "a few words on it: reject"}')


def test_a_caption_asks_for_one_object() -> None:
    assert "Describe object 2" in str(caption_question(Prompts(), SCENE, 2).parts[-1])


def test_a_folder_replaces_some_of_the_texts(tmp_path: Path) -> None:
    (tmp_path / "choose.txt").write_text("Welches? {instruction}", encoding="utf-8")
    prompts = Prompts(tmp_path)
    assert prompts.parts("choose", {"instruction": "der {Hund}", "example": ""}) == ["Welches? der {Hund}"]
    assert "noun phrases" in prompts.parts("concepts", {"instruction": "x"})[0]


def test_unknown_slot_is_named(tmp_path: Path) -> None:
    (tmp_path / "choose.txt").write_text("Which? {instructions}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"\{instructions\}"):
        Prompts(tmp_path)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="prompts folder"):
        Prompts(tmp_path / "none")
