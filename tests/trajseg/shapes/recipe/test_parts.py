"""Parts of the recipe: the data and losses of a step, and exact resume of a stage."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trajseg.model import TrajSegConfig, TrajSegModel
from trajseg.model.processor import TrajSegProcessor
from trajseg.shapes.recipe import clips, precision
from trajseg.shapes.recipe.clips import ClipStream, faded, pictures, relit, turns
from trajseg.shapes.recipe.language import GUIDED_LAYER, LanguageTraining
from trajseg.shapes.recipe.masks import LOSS_SIDE, guidance_loss, mask_loss, pairwise_iou
from trajseg.shapes.recipe.misreadings import misread
from trajseg.shapes.recipe.mixtures import KINDS, NAMES, attributes, clearly_unnamed, mixed_colours, nameless, unseen
from trajseg.shapes.recipe.packed_attention import NAME, Layout, packed_attention
from trajseg.shapes.recipe.packing import QuestionStream, attention_targets, pack
from trajseg.shapes.recipe.texts import (
    IGNORED,
    SLOT,
    Question,
    VisibleObjects,
    captions,
    names,
    presence,
    questions,
    seen_objects,
    shapes_processor,
    trajectories,
)
from trajseg.shapes.recipe.vision import _attribute_loss, attribute_weights, dense_targets
from trajseg.shapes.recipe.watching import augmented
from trajseg.shapes.world.phrases import PLURALS
from trajseg.shapes.world.render import render
from trajseg.shapes.world.scenes import COLOURS, HELD_OUT, MOTIONS, RGB, SHAPES, SIZES, Scene, sample_scene
from trajseg.training.run import Loss, Schedule, train


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons here are exact to the last digits."""
    monkeypatch.setattr(precision, "FAST_BFLOAT16", False)


@pytest.fixture(scope="module")
def processor() -> TrajSegProcessor:
    return shapes_processor(256)


@pytest.fixture(scope="module")
def language(processor: TrajSegProcessor) -> LanguageTraining:
    torch.manual_seed(0)
    model = TrajSegModel(TrajSegConfig.tiny(len(processor.tokenizer), processor.seg_id)).eval()
    return LanguageTraining(model, processor).eval()


def clip(processor: TrajSegProcessor, seed: int, limit: int = 4) -> tuple[Scene, VisibleObjects, list[Question]]:
    scene, rng = sample_scene(seed), random.Random(seed)
    asked = questions(scene, processor, rng, limit)
    asked += captions(scene, trajectories(scene, 8), None, processor, rng)
    return scene, seen_objects(scene, trajectories(scene, 8)), asked


@torch.no_grad()
def test_packed_questions_are_answered_as_if_each_were_asked_alone(
    processor: TrajSegProcessor, language: LanguageTraining
) -> None:
    """The block mask and restarting positions change nothing but the cost."""
    clips = [clip(processor, seed)[1:] for seed in (1, 2)]
    packed = pack(clips, processor, 8)
    hidden = language.hidden(packed, *language.symbols(packed)).last
    number = 0
    for row, (seen, asked) in enumerate(clips):
        for question in asked:
            alone = pack([(seen, [question])], processor, 8)
            single = language.hidden(alone, *language.symbols(alone)).last
            own = packed.segments[row] == number
            torch.testing.assert_close(hidden[row][own], single[0][alone.segments[0] == 0], atol=1e-4, rtol=1e-3)
            number += 1


@torch.no_grad()
def test_packed_attention_is_attention_under_the_mask(processor: TrajSegProcessor, language: LanguageTraining) -> None:
    packed = pack([clip(processor, seed, limit=seed)[1:] for seed in (1, 2, 9)], processor, 8)
    inputs = language.inputs(packed, *language.symbols(packed))
    layer = language.language_model.layers[0]
    turns = language.language_model.rotary_emb(inputs, packed.positions)
    plain = layer(inputs, attention_mask=packed.mask, position_embeddings=turns)
    with packed_attention(language.language_model.config):
        quick = layer(inputs, position_embeddings=turns, layout=Layout.of(packed))
    counts = packed.segments > -2
    torch.testing.assert_close(quick[counts], plain[counts], atol=1e-5, rtol=1e-4)
    assert language.language_model.config._attn_implementation != NAME


@torch.no_grad()
def test_an_answer_counts_as_right_only_when_it_means_the_right_objects(
    processor: TrajSegProcessor, language: LanguageTraining
) -> None:
    packed = pack([clip(processor, seed, limit=20)[1:] for seed in range(6)], processor, 8)
    spoken = F.pad(packed.labels.clamp(min=0)[:, 1:], (0, 1))

    def rate(answers: torch.Tensor) -> dict[str, float]:
        said = F.one_hot(answers, len(processor.tokenizer)).float()
        speaker = SimpleNamespace(
            hidden=lambda *_: SimpleNamespace(last=said),
            symbols=lambda _: (None, None),
            lm_head=nn.Identity(),
            eye=language.eye,
            seg_id=processor.seg_id,
        )
        outcome = LanguageTraining.right_objects(speaker, packed)  # type: ignore[arg-type]
        return {kind: sum(right) / len(right) for kind, right in outcome.items()}

    assert set(rate(spoken).values()) == {1.0}
    there, a = processor.ids("there a")
    yes = rate(torch.where(spoken == there, a, spoken))
    assert yes.pop("none") == 0.0, "naming an object where there is none is wrong"
    assert set(yes.values()) == {1.0}
    red, blue = processor.ids("red blue")
    assert min(rate(torch.where(spoken == red, blue, spoken)).values()) < 1.0


@torch.no_grad()
def test_watching_reads_the_same_states_as_answering(processor: TrajSegProcessor, language: LanguageTraining) -> None:
    packed = pack([clip(processor, seed)[1:] for seed in (4, 5)], processor, 8)
    tokens, _ = language.symbols(packed)
    early = language.hidden(packed, tokens).early
    torch.testing.assert_close(language.early_hidden(packed, tokens), early, atol=1e-5, rtol=1e-4)


def test_states_look_at_the_object_that_the_answer_has_come_to(processor: TrajSegProcessor) -> None:
    """Before each [SEG] its own object's tokens; after the last one, and without any, the first token."""
    packed = pack([clip(processor, seed, limit=30)[1:] for seed in range(8)], processor, 8)
    at = attention_targets(packed, processor.seg_id)
    where = {
        (row, position): k
        for k, (row, position) in enumerate(zip(at.rows.tolist(), at.positions.tolist(), strict=True))
    }
    name = torch.full(packed.ids.shape, -1)
    name[packed.visual] = names(torch.cat([seen.attributes for seen in packed.seen]))
    counts = set()
    for number, question in enumerate(packed.questions):
        row, place = (packed.segments == number).nonzero(as_tuple=True)
        spoken = packed.labels[row[0], place]
        counts.add(len(question.targets))
        segs = place[spoken == processor.seg_id]
        assert len(segs) == len(question.targets)
        for seg, target in zip(segs, question.targets, strict=True):
            looked = at.wanted[where[int(row[0]), int(seg) - 1]]
            visual = looked & packed.visual[row[0]]
            assert visual.any()
            assert bool((name[row[0]][visual] == names(target)).all())
            assert not (looked & ~visual & ~packed.trajectory[row[0]]).any()
        end = at.wanted[where[int(row[0]), int(place[-1]) - 1]]
        assert end.nonzero().tolist() == [[0]]
    assert {0, 1, 2} <= counts


def test_the_guided_share_is_that_of_the_models_own_attention(
    processor: TrajSegProcessor, language: LanguageTraining
) -> None:
    packed = pack([clip(processor, seed)[1:] for seed in (1, 2)], processor, 8)
    hidden = language.hidden(packed, *language.symbols(packed))
    kept = []
    attention = language.language_model.layers[GUIDED_LAYER].self_attn
    implementation = attention.config._attn_implementation
    hook = attention.register_forward_hook(lambda _module, _inputs, output: kept.append(output[1]))
    attention.config._attn_implementation = "eager"
    try:
        mask = torch.zeros(packed.mask.shape).masked_fill(~packed.mask, -torch.inf)
        language.language_model(
            inputs_embeds=language.inputs(packed, *language.symbols(packed)),
            attention_mask=mask,
            position_ids=packed.positions,
        )
    finally:
        attention.config._attn_implementation = implementation
        hook.remove()
    at = attention_targets(packed, processor.seg_id)
    share = (kept[0][:, 0][at.rows, at.positions] * at.wanted).sum(-1)
    _, mean = language.guidance_loss(packed, hidden.guided)
    assert mean == pytest.approx(float(share.detach().mean()), rel=1e-4)


def test_presence_tells_who_enters_and_who_leaves() -> None:
    for seed in range(20):
        scene = sample_scene(seed)
        seen = seen_objects(scene, trajectories(scene, 8))
        told = presence(seen)
        for named in seen.attributes.unique(dim=0):
            rows = (seen.attributes == named).all(1)
            frames = set(seen.frame[rows].tolist())
            assert told[rows].unique(dim=0).tolist() == [[int(0 in frames), int(7 in frames)]]


def test_a_disguised_clip_moves_as_its_label_says() -> None:
    """The centres of objects that move straight, completely inside the picture, follow the augmented motion."""
    rng, checked = random.Random(0), 0
    for seed in range(60):
        scene = sample_scene(seed)
        longest = max(1.0, scene.aspect)
        seen = seen_objects(scene, trajectories(scene, 8, least=0.95))
        seen = augmented(seen, (scene.aspect / longest, 1 / longest), 8, rng)
        for named in seen.attributes.unique(dim=0):
            rows = (seen.attributes == named).all(1)
            if rows.sum() < 2:
                continue
            box, frame = seen.box[rows], seen.frame[rows]
            assert frame.tolist() == sorted(frame.tolist())
            assert ((box >= -1e-5) & (box <= 1 + 1e-5)).all()
            dx, dy = ((box[-1] - box[0])[:2] / (frame[-1] - frame[0])).tolist()
            motion = MOTIONS[int(seen.motion[rows][0, 0])]
            if motion in ("left", "right"):
                assert (dx > 0) == (motion == "right")
            elif motion in ("up", "down"):
                assert (dy > 0) == (motion == "down")
            else:
                continue
            checked += 1
    assert checked > 30


def test_a_disguised_clip_has_no_pair_that_only_the_test_split_has() -> None:
    rng = random.Random(0)
    for seed in range(150):
        scene = sample_scene(seed)
        longest = max(1.0, scene.aspect)
        seen = seen_objects(scene, trajectories(scene, 8))
        assert not unseen(augmented(seen, (scene.aspect / longest, 1 / longest), 8, rng).attributes)


def test_what_has_a_name_looks_like_it_and_what_has_none_like_nothing() -> None:
    rng, beside = random.Random(0), torch.zeros(len(COLOURS), len(SHAPES))
    for seed in range(600):
        called = attributes(sample_scene(seed))
        look, named = nameless(called, rng)
        assert torch.allclose(look.sum(1), torch.full((len(called),), float(len(KINDS))))
        parts = look[:, :NAMES].split([len(names) for names in KINDS], dim=1)
        for column, part in enumerate(parts):
            known = named[:, column]
            assert torch.equal(part[known].argmax(1), called[known, column])
            assert (part[known].amax(1) == 1).all()
            assert ((part[~known].amax(1) <= 0.65) | (part[~known].amax(1) == 1)).all()
        beside += ((parts[0] > 0).float()[:, :, None] * (parts[1] > 0).float()[:, None]).sum(0)
    assert (beside > 0).all()


def test_names_that_an_object_lacks_are_not_mentioned(processor: TrajSegProcessor) -> None:
    asked_of_nameless = 0
    for seed in range(60):
        scene, rng = sample_scene(seed), random.Random(seed)
        look, named = nameless(attributes(scene), rng)
        asked = questions(scene, processor, rng, 8, look, named)
        asked += captions(scene, trajectories(scene, 8), look, processor, rng, named=named)
        unsaid = {
            processor.ids(word)[0]
            for o, known in zip(scene.objects, named.tolist(), strict=True)
            for word, is_known in zip((o.colour, o.shape, o.size), known, strict=True)
            if not is_known
        }
        # Nor names that are part of an object's blend: "the red one" may be the reddish one.
        parts = look[:, :NAMES].split([len(words) for words in KINDS], dim=1)
        for column, (words, part) in enumerate(zip(KINDS, parts, strict=True)):
            for at in (part[~named[:, column]] > 0).any(0).nonzero()[:, 0].tolist():
                unsaid |= {processor.ids(form)[0] for form in (words[at], PLURALS.get(words[at], words[at]))}
        for question in asked:
            if question.kind != "caption":
                assert unsaid.isdisjoint(question.request)
            short = [token for token in question.answer if token == IGNORED]
            wanted = sum(
                int((~named[k]).sum())
                for k in range(len(named))
                if any(torch.equal(attributes(scene)[k], target) for target in question.targets)
            )
            assert len(short) == wanted
            asked_of_nameless += wanted
    assert asked_of_nameless > 50


def test_mixed_colours_are_painted_as_their_weights_tell() -> None:
    rng, unnamed = random.Random(0), 0
    for seed in range(100):
        scene = sample_scene(seed)
        painted, look = mixed_colours(scene, rng, unnamed=0.3)
        for before, after, weights in zip(scene.objects, painted.objects, look[:, : len(COLOURS)], strict=True):
            if weights.sum() == 0:
                unnamed += 1
                assert all(math.dist(after.rgb, RGB[colour]) > 100 for colour, _ in HELD_OUT), "whatever the shape"
            elif weights.max() == 1:
                assert max(abs(a - b) for a, b in zip(before.rgb, after.rgb, strict=True)) <= 13
            else:
                wanted = weights @ torch.tensor([RGB[name] for name in COLOURS], dtype=torch.float32)
                assert COLOURS[int(weights.argmax())] == before.colour
                assert (wanted - torch.tensor(after.rgb)).abs().max() < 14
    assert unnamed > 50


def test_strange_shapes_are_drawn_and_have_no_name() -> None:
    clips = list(itertools.islice(ClipStream(0, 2, 64, unshaped=0.25), 60))
    shapes = torch.cat([clip.attributes[:, 1] for clip in clips])
    weights = torch.cat([clip.look[:, len(COLOURS) : len(COLOURS) + len(SHAPES)] for clip in clips])
    assert torch.equal(weights.sum(1) == 0, shapes == -1)
    assert 0.15 < float((shapes == -1).float().mean()) < 0.35
    assert all(clip.look[:, : len(COLOURS)].sum() == pytest.approx(len(clip.look)) for clip in clips)
    drawn = [bool((clip.ids == k + 1).any()) for clip in clips for k in (clip.attributes[:, 1] == -1).nonzero()[:, 0]]
    assert sum(drawn) > 0.7 * len(drawn), "most are in the picture at one of two times"


def test_colours_are_learned_from_strange_shapes_and_shapes_from_colours_without_a_name() -> None:
    clips = list(itertools.islice(ClipStream(1, 1, 64, unnamed=0.5, unshaped=0.4), 60))
    look = torch.cat([clip.look for clip in clips])[:, :NAMES]
    colour, shape, size = attribute_weights(look)
    has_colour, has_shape = (
        part.sum(1, keepdim=True) > 0 for part in look.split([len(names) for names in KINDS], 1)[:2]
    )
    assert torch.equal(colour, (~has_shape).float())
    assert torch.equal(shape, (~has_colour).float())
    assert size == 1
    assert (has_colour & has_shape).any()
    assert min(float((colour * has_colour).sum()), float((shape * has_shape).sum())) > 0.15 * len(look)


def test_wide_clips_are_wider_than_usual_and_hold_smaller_objects() -> None:
    def sizes(wide: float) -> tuple[float, float]:
        clips = list(itertools.islice(ClipStream(2, 1, 64, wide=wide), 60))
        heights = [float(clip.pixels[0, 0].std(1).gt(0).float().mean()) for clip in clips]
        return max(heights), float(torch.cat([clip.planes.sum((2, 3)).flatten() for clip in clips]).mean())

    (highest, usual), (highest_wide, small) = sizes(0), sizes(1)
    assert highest == 1
    assert highest_wide <= 9 / 16
    assert small < 0.6 * usual


def test_an_object_turns_up_or_away_where_the_pictures_show_it() -> None:
    for seed in range(6):
        scene = sample_scene(seed)
        _, ids = render(scene, 96)
        there = torch.tensor([[bool((plane == k + 1).any()) for plane in ids] for k in range(len(scene.objects))])
        changed = (there[:, 1:] != there[:, :-1]).any(0).nonzero()[:, 0] + 1
        found = torch.tensor(turns(scene))
        assert len(found) >= bool(len(changed))
        assert all((found - at).abs().min() <= 3 for at in changed), "a twentieth of it is a few frames"


def test_filmed_clips_are_taken_where_objects_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def turning(share: float) -> float:
        monkeypatch.setattr(clips, "TURNS", share)
        shown = [clip.planes.amax((2, 3)) for clip in itertools.islice(ClipStream(0, 4, 64, stride=4), 60)]
        return sum(bool((there != there[0]).any()) for there in shown) / len(shown)

    assert turning(1) > turning(0) + 0.2


def test_symbols_are_misread_as_a_picture_tower_does_but_never_as_an_unseen_pair(processor: TrajSegProcessor) -> None:
    rng, shapes, colours, rows = random.Random(0), 0, 0, 0
    starts = (0, len(COLOURS), len(COLOURS) + len(SHAPES))
    for seed in range(80):
        scene = sample_scene(seed)
        seen = seen_objects(scene, trajectories(scene, 8))
        read = misread(seen, rng)
        assert torch.equal(read.attributes, seen.attributes), "what it is called does not change"
        assert read.look is not None
        noise = read.look[:, NAMES:].std()
        assert 0.02 < noise < 0.035
        for row, (colour, shape, _) in zip(read.look, seen.attributes.tolist(), strict=True):
            taken = [int(row[at : at + len(names)].argmax()) for at, names in zip(starts, KINDS, strict=True)]
            rows, shapes, colours = rows + 1, shapes + (taken[1] != shape), colours + (taken[0] != colour)
            assert (COLOURS[taken[0]], SHAPES[taken[1]]) not in HELD_OUT
    assert 0.03 < shapes / rows < 0.2
    assert 0 < colours < shapes


def test_a_language_model_is_asked_the_same_of_misread_symbols(processor: TrajSegProcessor) -> None:
    plain, read = (next(iter(QuestionStream(processor, 3, 1, 8, read=reading))) for reading in (None, misread))
    assert [question.answer for question in plain.questions] == [question.answer for question in read.questions]
    look, misread_look = plain.seen[0].look, read.seen[0].look
    assert look is not None
    assert misread_look is not None
    assert not torch.equal(look, misread_look)


def test_a_kind_of_name_that_no_object_has_is_not_mentioned() -> None:
    look = torch.zeros(2, NAMES)
    look[:, len(COLOURS)] = look[:, -1] = 1
    figures: dict[str, float] = {}
    assert torch.isfinite(_attribute_loss(torch.zeros(2, NAMES), look, figures, "token"))
    assert set(figures) == {"token_shape", "token_size"}


def test_a_misheard_answer_differs_in_names_only(processor: TrajSegProcessor) -> None:
    differing = 0
    for seed in range(30):
        for question in clip(processor, seed)[2]:
            assert len(question.read) == len(question.answer)
            said, heard = (processor.text(ids).split() for ids in (question.answer, question.read))
            for one, other in zip(said, heard, strict=True):
                if one != other:
                    differing += 1
                    assert any(one in names and other in names for names in KINDS)
    assert differing > 20


def test_only_answers_are_learned(processor: TrajSegProcessor) -> None:
    _, seen, asked = clip(processor, 3)
    packed = pack([(seen, asked)], processor, 8)
    learned = packed.labels[0][packed.labels[0] != IGNORED].tolist()
    assert learned == [token for question in asked for token in question.answer]
    assert learned.count(processor.end_id) == len(asked)


def test_answers_name_the_targets_and_end_each_with_seg(processor: TrajSegProcessor) -> None:
    for seed in range(20):
        _, _, asked = clip(processor, seed, limit=20)
        for question in asked:
            text = processor.text(question.answer)
            assert text.count("[SEG]") == len(question.targets)
            assert "<unk>" not in text + processor.text([word for word in question.request if word != SLOT])
            assert question.request.count(SLOT) == (8 if question.kind == "caption" else 0)
            for colour, shape, size in question.targets.tolist():
                assert f"{SIZES[size]} {COLOURS[colour]} {SHAPES[shape]}" in text


def test_dense_targets_tell_the_object_in_each_cell() -> None:
    scene = sample_scene(5)
    drawn = pictures(scene, [0, scene.frame_count // 2], 256)
    dense = dense_targets(drawn, 16)
    assert dense.owner.shape == dense.heat.shape == dense.centre.shape == (2, 16, 16)
    assert dense.box.shape == (2, 16, 16, 4)
    for frame, row, column in dense.centre.nonzero().tolist():
        k = int(dense.owner[frame, row, column])
        assert dense.of(drawn.attributes)[frame, row, column].tolist() == drawn.attributes[k].tolist()
        x1, y1, x2, y2 = (dense.box[frame, row, column] * 256).tolist()
        y, x = (drawn.ids[frame] == k + 1).nonzero(as_tuple=True)
        assert (x.min(), y.min(), x.max() + 1, y.max() + 1) == (x1, y1, x2, y2)
        assert dense.heat[frame, row, column] == 1


def test_the_mask_loss_is_least_for_the_truth_and_ignores_masks_of_absent_objects() -> None:
    from trajseg.model.mask_decoder import DecodedMask

    target = torch.zeros(2, LOSS_SIDE, LOSS_SIDE)
    target[0, 40:80, 40:80] = 1
    present = torch.tensor([True, False])

    def loss(logits: torch.Tensor, score: torch.Tensor) -> float:
        return float(mask_loss(DecodedMask(logits, score, torch.zeros(2, 1)), target, present))

    truth, score = (target * 2 - 1) * 20, torch.tensor([20.0, -20.0])
    assert loss(truth, score) < 0.05
    assert loss(-truth, score) > 5
    noisy = truth.clone()
    noisy[1] = 50.0
    assert loss(noisy, score) == pytest.approx(loss(truth, score))
    assert loss(truth, -score) > 5


def test_guidance_is_nothing_when_all_attention_lies_on_the_object() -> None:
    target = torch.zeros(1, 128, 128)
    target[0, :64, :64] = 1
    inside = torch.zeros(1, 2, 16, 16)
    inside[:, :, 3, 3] = 1
    outside = inside.flip(2, 3)
    present = torch.tensor([True])
    assert float(guidance_loss(inside.flatten(2), target, present)) == pytest.approx(0, abs=1e-5)
    assert float(guidance_loss(outside.flatten(2), target, present)) > 5


def test_pairwise_iou_equals_counting() -> None:
    a, b = torch.rand(3, 9, 9) > 0.5, torch.rand(4, 9, 9) > 0.5
    table = pairwise_iou(a, b)
    for i in range(3):
        for j in range(4):
            assert table[i, j] == pytest.approx(float((a[i] & b[j]).sum() / (a[i] | b[j]).sum()))


def test_a_stopped_stage_resumes_with_its_weights_and_its_steps(tmp_path: Path) -> None:
    def stage() -> tuple[nn.Linear, Loss]:
        torch.manual_seed(0)
        module = nn.Linear(3, 1)
        x = torch.randn(16, 3)
        return module, lambda _: ((module(x) - x.sum(1, keepdim=True)).square().mean(), {})

    schedule = Schedule(steps=20, lr=0.01, warmup=1, log_every=5, save_every=5)
    module, loss = stage()
    train(tmp_path / "s", module, loss, schedule)
    stopped = torch.load(tmp_path / "s" / "state.pt", weights_only=True)

    again, loss = stage()
    train(tmp_path / "s", again, loss, schedule)
    for name, tensor in stopped["module"].items():
        assert torch.equal(again.state_dict()[name], tensor), "no step was left: nothing may have moved"
    train(tmp_path / "s", again, loss, Schedule(steps=40, lr=0.01, warmup=1, log_every=5, save_every=5))
    resumed = torch.load(tmp_path / "s" / "state.pt", weights_only=True)
    assert resumed["step"] > stopped["step"]
    losses = [json.loads(line)["loss"] for line in (tmp_path / "s" / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]


def test_a_loss_that_is_not_finite_stops_the_stage(tmp_path: Path) -> None:
    module = nn.Linear(1, 1)
    with pytest.raises(FloatingPointError, match="lower the rate"):
        train(
            tmp_path / "s",
            module,
            lambda _: (module(torch.tensor([[float("nan")]])).sum(), {}),
            Schedule(steps=9, lr=0.1),
        )


def test_a_clearly_unnamed_colour_is_far_from_every_name() -> None:
    rng, unnamed = random.Random(0), 0
    for seed in range(40):
        scene = sample_scene(seed)
        painted, look, named = clearly_unnamed(scene, rng, 0.5)
        assert named[:, 1:].all()
        for before, after, row, known in zip(scene.objects, painted.objects, look, named, strict=True):
            assert (after.colour, after.shape) == (before.colour, before.shape)
            if known[0]:
                assert after.rgb == before.rgb
                assert row[: len(COLOURS)].sum() == 1
                continue
            unnamed += 1
            assert not row[: len(COLOURS)].any()
            for colour, rgb in RGB.items():
                assert math.dist(after.rgb, rgb) >= (110 if colour in {bar for bar, _ in HELD_OUT} else 90)
    assert unnamed > 30


def test_clips_are_filmed_in_other_light_and_objects_stay_where_they_are() -> None:
    scene, rng = sample_scene(3), random.Random(0)
    plain = pictures(scene, [0, 5], 128)
    differ = []
    for _ in range(40):
        lit = pictures(scene, [0, 5], 128, light=rng)
        assert torch.equal(lit.ids, plain.ids)
        differ.append(not torch.equal(lit.pixels, plain.pixels))
    assert 4 <= sum(differ) <= 22
    frames = np.full((2, 40, 60, 3), 128, np.uint8)
    means = [float(relit(frames, rng).mean()) for _ in range(50)]
    assert relit(frames, rng).dtype == np.uint8
    assert min(means) < 100
    assert max(means) > 150


def test_a_faded_clip_has_lost_its_colours_and_their_names() -> None:
    pixels = torch.randn(2, 3, 8, 8)
    for seed in range(20):
        left = faded(pixels, random.Random(seed))
        torch.testing.assert_close(left.mean(1), pixels.mean(1))
        spread, before = (p - p.mean(1, keepdim=True) for p in (left, pixels))
        assert float(spread.norm()) <= 0.1 * float(before.norm()) + 1e-5
    clips = list(itertools.islice(ClipStream(0, 1, 64, unnamed=0.1), 40))
    nameless_clips = sum(not clip.look[:, : len(COLOURS)].any() for clip in clips)
    assert 4 <= nameless_clips <= 20
    named = list(itertools.islice(ClipStream(0, 1, 64), 40))
    assert all(clip.look[:, : len(COLOURS)].sum() == pytest.approx(len(clip.look)) for clip in named)
