"""Lessons for the tiny chooser, as text and as tensors."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import numpy as np
import pytest
import torch

from trajseg.engines.grounded.grammar import caption_grammar, phrases_grammar, read_verdicts, verdict_grammar
from trajseg.shapes.engines import vlm
from trajseg.shapes.engines.chooser import Teacher, single_portraits, without
from trajseg.shapes.engines.desk import Desk, nameless, portraits_of
from trajseg.shapes.engines.lessons import (
    CHAFF,
    SIDES,
    Lesson,
    asked_outermost,
    asked_side,
    concepts_of,
    draw_lesson,
    put,
)
from trajseg.shapes.engines.near_misses import near_miss
from trajseg.shapes.engines.pictures import Recolouring
from trajseg.shapes.world.facts import Facts
from trajseg.shapes.world.language import Instruction, words
from trajseg.shapes.world.scenes import COLOURS, HELD_OUT, RGB, SHAPES, SIZES, sample_scene


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


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("the leftmost object at the start", "leftmost"),
        ("the object furthest to the right at the start", "rightmost"),
        ("the one that starts highest", "topmost"),
        ("the lowest object at the start", "bottommost"),
        ("the ring to the left of the blue star at the start", "left"),
        ("the red object that starts below the large blue circle", "below"),
        ("the red circle moving left", None),
    ],
)
def test_side_stated_by_a_sentence(text: str, side: str | None) -> None:
    assert asked_side(text) == (len(SIDES) if side is None else SIDES.index(side))


def test_answers_about_the_outermost_object_state_each_candidate_s_place() -> None:
    met = 0
    for lesson in lessons(120):
        for kind, said, answer in lesson.turns:
            if kind != "choose" or asked_outermost(said) is None:
                continue
            for description, verdict in read_verdicts(answer).values():
                if verdict == "accept":
                    met += 1
                    assert description.endswith(f", {asked_outermost(said)}")
    assert met


def test_false_positives_are_described_as_what_they_are() -> None:
    mistaken = 0
    for lesson in lessons(120, seed=5):
        for kind, _, answer in lesson.turns:
            for number, one in enumerate(lesson.candidates, 1):
                if kind != "choose" or one.k is None or one.phrase in ("object", lesson.scene.objects[one.k].shape):
                    continue
                mistaken += 1
                assert f" {lesson.scene.objects[one.k].shape} " in read_verdicts(answer)[number][0]
    assert mistaken


def test_candidate_of_the_wrong_shape_is_rejected() -> None:
    near = 0
    for lesson in lessons(200, seed=6):
        for kind, said, answer in lesson.turns:
            for number, one in enumerate(lesson.candidates, 1):
                if kind != "choose" or one.k is None or set(words(said)) & set(SHAPES) != {one.phrase}:
                    continue
                o = lesson.scene.objects[one.k]
                if o.shape != one.phrase and o.colour in words(said):
                    near += 1
                    assert read_verdicts(answer)[number][1] == "reject"
    assert near > 5


def test_near_misses_refer_to_nothing_and_name_no_held_out_pair() -> None:
    rng, met = random.Random(7), 0
    for seed in range(150):
        scene = sample_scene(seed, "train")
        if (near := near_miss(scene, Facts(scene), rng)) is None:
            continue
        met += 1
        k, one = near
        assert one.targets == ()
        assert 0 <= k < len(scene.objects)
        said = set(words(one.text))
        assert not any({colour, shape} <= said for colour, shape in HELD_OUT)
        # Without a motion or an event, no object has all the looks that are named.
        if said <= {"the", "only", "object", *COLOURS, *SHAPES, *SIZES}:
            assert all(said & {*COLOURS, *SHAPES, *SIZES} - {o.size, o.colour, o.shape} for o in scene.objects)
    assert met > 75


def test_a_false_alarm_is_never_accepted() -> None:
    for lesson in lessons(150, seed=1):
        false = [str(number) for number, one in enumerate(lesson.candidates, 1) if one.k is None]
        for kind, _, answer in lesson.turns:
            if kind == "choose":
                assert all(json.loads(answer)[number] == "nothing: reject" for number in false)


def test_concepts_are_nouns_or_object() -> None:
    assert concepts_of("the small red circle") == ["circle"]
    assert concepts_of("the star left of the blue ring at the start") == ["star", "ring"]
    assert concepts_of("the object that enters last") == ["object"]
    assert concepts_of("all the crosses") == ["cross"]


def test_tokenizer_round_trips_every_text() -> None:
    words = vlm.tokenizer()
    for lesson in lessons(40, seed=2):
        for _, said, answer in lesson.turns:
            for text in (said, answer):
                assert words.decode(words(text)["input_ids"]) == text
                assert words.unk_token_id not in words(text)["input_ids"]


def test_only_answers_and_their_verdicts_are_learned() -> None:
    desk, drawn = Desk(), lessons(4)
    batch = desk.batch(drawn)
    for row, lesson in enumerate(drawn):
        learned = [int(token) for token in batch.labels[row] if token >= 0]
        expected = "".join(answer + "<|im_end|>" for _, _, answer in lesson.turns)
        assert desk.words.decode(learned) == expected
        decided = desk.words.decode(batch.ids[row][batch.verdicts[row]])
        assert decided.count("accept") == expected.count("accept")
    assert int(batch.kinds.sum()) == vlm.TOKENS * sum(len(lesson.candidates) for lesson in drawn)


def test_one_portrait_per_candidate_and_gradients_in_every_stage() -> None:
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


def pairs_said(texts: list[str]) -> set[tuple[str, str]]:
    """Every pair of a colour and the shape after it."""
    found = set()
    for said in map(words, texts):
        found |= {(a, b) for a, b in pairwise(said) if a in COLOURS and b in SHAPES}
    return found


def test_no_lesson_shows_or_mentions_a_held_out_pair() -> None:
    desk, rng = Desk(), random.Random(5)
    drawn = [nameless(lesson, rng) for lesson in lessons(120, seed=6)]
    assert any(unnamed in (0, 1) for lesson in drawn for unnamed in lesson.unnamed)
    texts = [said for lesson in drawn for _, said, _ in lesson.turns]
    batch = desk.batch(drawn)
    texts += [desk.words.decode(row) for row in batch.ids]
    assert len(pairs_said(texts)) > 20
    assert pairs_said(texts).isdisjoint(HELD_OUT)
    looks = {(COLOURS[c], SHAPES[s]) for c, s, *_ in batch.looks.tolist() if c >= 0 and s >= 0}
    assert looks.isdisjoint(HELD_OUT)


def test_nameless_looks_are_neither_learned_nor_judged() -> None:
    desk, rng = Desk(), random.Random(1)
    lesson = next(one for one in lessons(60, seed=8) if one.turns[0][0] == "choose" and len(one.candidates) > 2)
    marked = nameless(lesson, rng)
    while 1 not in marked.unnamed:
        marked = nameless(lesson, rng)
    whole, part = desk.batch([lesson]), desk.batch([marked])
    left_out = int((whole.labels >= 0).sum() - (part.labels >= 0).sum())
    # Each nameless look costs its word and the verdict; a word that is only misread costs the verdict.
    assert left_out == sum(2 if unnamed in (0, 1) else 1 for unnamed in marked.unnamed if unnamed is not None)
    nowhere = [at for at, unnamed in enumerate(marked.unnamed) if unnamed == 1]
    assert (part.looks[nowhere, 1] == -1).all()
    assert torch.isfinite(Teacher().answer_loss(part, Teacher().codes(part))[0])


def test_barred_class_is_masked_out() -> None:
    logits = torch.tensor([[1.0, 5.0, 2.0], [1.0, 5.0, 2.0]])
    assert without(logits, torch.tensor([1, -1])).argmax(1).tolist() == [2, 1]


@pytest.mark.parametrize(("colour", "shape"), sorted(HELD_OUT))
def test_recolouring_creates_no_held_out_pair(colour: str, shape: str) -> None:
    rng = random.Random(2)
    for seen in COLOURS:
        for _ in range(20):
            new = Recolouring.drawn(rng, seen, shape)(np.full((1, 1, 3), RGB[seen], np.uint8))[0, 0].astype(int)
            assert min(COLOURS, key=lambda name: int(np.abs(new - RGB[name]).sum())) != colour


def test_filler_words_keep_the_order_of_the_others() -> None:
    one = Instruction("motion", "referring", "the small red circle moving left", (0,))
    rng = random.Random(3)
    kept = ["small", "red", "circle", "moving", "left"]
    heard = {put(one, rng) for _ in range(200)}
    assert len(heard) > 100
    assert all([word for word in words(text) if word in kept] == kept for text in heard)
    assert not set(CHAFF) & set(kept)
