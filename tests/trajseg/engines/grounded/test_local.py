"""The local chooser: real classes with random weights; their answers must follow the grammar."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trajseg.engines.grounded import checkpoints
from trajseg.engines.grounded.chooser import GrammarProcessor, LocalChooser
from trajseg.engines.grounded.dialogue import Question
from trajseg.engines.grounded.grammar import Grammar, caption_grammar, phrases_grammar, verdict_grammar
from trajseg.errors import CheckpointError

PICTURE = np.random.default_rng(0).integers(0, 255, (48, 80, 3), np.uint8)


@pytest.mark.parametrize("save", [checkpoints.save_qwen3_vl, checkpoints.save_qwen3_5])
def test_random_weights_follow_the_grammar(save: Callable[[Path], Path], tmp_path: Path) -> None:
    chooser = LocalChooser.from_pretrained(save(tmp_path / "chooser"))
    for grammar in (verdict_grammar([1, 12], 6), phrases_grammar(length=12), caption_grammar(20)):
        answer = chooser.answer(Question(["object 1 ", PICTURE, " and ", PICTURE, " which?"], grammar))
        assert grammar.is_whole(answer)
        assert isinstance(json.loads(answer), dict)


def test_a_question_without_pictures(tmp_path: Path) -> None:
    chooser = LocalChooser.from_pretrained(checkpoints.save_qwen3_vl(tmp_path))
    assert json.loads(chooser.answer(Question(["phrases of: the ring"], phrases_grammar(most=1, length=8))))


def test_likeliest_fitting_token_is_chosen_and_end_only_after_a_complete_answer(tmp_path: Path) -> None:
    words = LocalChooser.from_pretrained(checkpoints.save_qwen3_vl(tmp_path)).processor.tokenizer
    held = GrammarProcessor(Grammar("x", '"(accept|reject)"', {}), words, start=1)
    scores = torch.zeros(1, len(words) + 64)
    for token, score in (("<|im_end|>", 9.0), ("doubtful", 8.0), ("reject", 7.0), ("accept", 6.0), ('"', 5.0)):
        scores[0, words.convert_tokens_to_ids(token)] = score
    scores[0, len(words) + 3] = 99.0  # the model's vocabulary is larger than the tokenizer's
    ids = [0]
    for _ in range(4):
        ids.append(int(held(torch.tensor([ids]), scores).argmax()))
    assert words.decode(ids[1:-1]) == '"reject"'
    assert ids[-1] == held.end


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="chooser"):
        LocalChooser.from_pretrained(tmp_path)
