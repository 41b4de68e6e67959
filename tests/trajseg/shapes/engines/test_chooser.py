"""Lessons for the tiny chooser, as text and as tensors."""

from __future__ import annotations

import json
import random

import torch

from trajseg.engines.grounded.grammar import caption_grammar, phrases_grammar, verdict_grammar
from trajseg.shapes.engines import vlm
from trajseg.shapes.engines.chooser import Desk, Teacher, portraits_of, single_portraits
from trajseg.shapes.engines.lessons import Lesson, concepts_of, draw_lesson


def lessons(count: int, seed: int = 0) -> list[Lesson]:
    rng = random.Random(seed)
    drawn = (draw_lesson(rng) for _ in range(3 * count))
    return [lesson for lesson in drawn if lesson is not None][:count]


def test_answers_are_within_the_grammar_and_true() -> None:
    for lesson in lessons(40):
        numbers = list(range(1, len(lesson.candidates) + 1))
        for kind, said, answer in lesson.turns:
            if kind == "concepts":
                assert phrases_grammar().is_whole(answer)
            elif kind == "caption":
                assert caption_grammar().is_whole(answer)
                o = lesson.scene.objects[lesson.candidates[int(said) - 1].k or 0]
                assert json.loads(answer)["caption"].startswith(f"a {o.size} {o.colour} {o.shape}")
            else:
                assert verdict_grammar(numbers).is_whole(answer)


def test_a_false_alarm_is_never_accepted() -> None:
    for lesson in lessons(150, seed=1):
        false = [str(number) for number, one in enumerate(lesson.candidates, 1) if one.k is None]
        for kind, _, answer in lesson.turns:
            if kind == "choose":
                assert all(json.loads(answer)[number] == "nothing: reject" for number in false)


def test_concepts_are_nouns_or_left_open() -> None:
    assert concepts_of("the small red circle") == ["circle"]
    assert concepts_of("the star left of the blue ring at the start") == ["star", "ring"]
    assert concepts_of("the object that enters last") == ["object"]
    assert concepts_of("all the crosses") == ["cross"]


def test_the_tokenizer_puts_every_text_together_again() -> None:
    words = vlm.tokenizer()
    for lesson in lessons(40, seed=2):
        for _, said, answer in lesson.turns:
            for text in (said, answer):
                assert words.decode(words(text)["input_ids"]) == text
                assert words.unk_token_id not in words(text)["input_ids"]


def test_what_is_learned_are_the_answers_and_their_verdicts() -> None:
    desk, drawn = Desk(), lessons(4)
    batch = desk.batch(drawn)
    for row, lesson in enumerate(drawn):
        learned = [int(token) for token in batch.labels[row] if token >= 0]
        expected = "".join(answer + "<|im_end|>" for _, _, answer in lesson.turns)
        assert desk.words.decode(learned) == expected
        decided = desk.words.decode(batch.ids[row][batch.verdicts[row]])
        assert decided.count("accept") == expected.count("accept")
    assert int(batch.kinds.sum()) == vlm.TOKENS * sum(len(lesson.candidates) for lesson in drawn)


def test_portraits_are_one_a_candidate_and_every_stage_has_gradients() -> None:
    torch.manual_seed(0)
    teacher, desk, rng = Teacher(), Desk(), random.Random(3)
    cut, looks = next(single_portraits(rng, 8))
    loss, _ = teacher.eyes_loss(*desk.pixels(cut), looks)
    loss.backward()
    assert teacher.vlm.model.visual.patch_embed.proj.weight.grad is not None
    drawn = [lesson for lesson in lessons(6, seed=4) if lesson.candidates][:2]
    batch = desk.batch(drawn)
    seen = [portrait for lesson in drawn for portrait in portraits_of(lesson, rng)]
    pixels, grid = desk.pixels(seen)
    assert torch.equal(grid, batch.grid)
    teacher.zero_grad()
    loss, figures = teacher.answer_loss(batch, teacher.vlm.model.visual(pixels, grid_thw=grid).pooler_output)
    loss.backward()
    assert float(teacher.vlm.model.visual.patch_embed.proj.weight.grad.abs().sum()) > 0
    assert 0 <= figures["verdict"] <= 1
    assert torch.isfinite(teacher.answer_loss(batch, teacher.codes(batch))[0])
