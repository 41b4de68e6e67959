"""Descriptions for mask training: objects by name, and decoys that it learns to deny."""

from __future__ import annotations

import random

import pytest
import torch

from trajseg.model import TrajSegConfig, TrajSegModel
from trajseg.shapes.recipe.clips import Pictures, pictures
from trajseg.shapes.recipe.descriptions import OMITTED, decoys_of, of_objects
from trajseg.shapes.recipe.masks import MaskTraining, PromptRows, TokenTable, gate_figures, mask_figures, object_planes
from trajseg.shapes.recipe.mixtures import mixed_colours
from trajseg.shapes.world.scenes import COLOURS, HELD_OUT, SHAPES, sample_scene


def clip(seed: int, unnamed: float = 0.0) -> Pictures:
    """One small frame of a scene, colours mixed."""
    scene, look = mixed_colours(sample_scene(seed), random.Random(seed), unnamed)
    return pictures(scene, [0], 32, look=look)


def fits(attributes: list[int], named: list[bool], shown: Pictures, k: int) -> bool:
    """Whether a description may mean object k, checked name by name."""
    colours, own = shown.look[k, : len(COLOURS)].tolist(), shown.attributes[k].tolist()
    colour = not named[0] or not any(colours) or colours[attributes[0]] > 0
    return colour and all(not named[kind] or attributes[kind] == own[kind] for kind in (1, 2))


def test_a_description_without_a_name_fits_no_other_object() -> None:
    short = objects = 0
    for seed in range(60):
        shown = clip(seed, 0.2)
        asked = of_objects(shown, random.Random(seed))
        assert torch.equal(asked.attributes, shown.attributes)
        for k, named in enumerate(asked.named.tolist()):
            known = [bool(shown.look[k, : len(COLOURS)].any()), True, True]
            assert named[0] <= known[0]
            objects += 1
            if named != known:
                short += 1
                found = [j for j in range(len(asked)) if fits(asked.attributes[k].tolist(), named, shown, j)]
                assert found == [k]
    assert 0 < short < OMITTED * objects


def test_decoys_are_near_to_an_object_and_fit_none() -> None:
    drawn = short = 0
    for seed in range(60):
        shown = clip(seed, 0.2)
        asked = decoys_of(shown, random.Random(seed), 3)
        drawn += len(asked)
        short += int((~asked.named[:, 1:]).any(1).sum())
        assert len(asked) <= 3
        for attributes, named in zip(asked.attributes.tolist(), asked.named.tolist(), strict=True):
            assert any((torch.tensor(attributes) != other).sum() <= 2 for other in shown.attributes)
            assert not any(fits(attributes, named, shown, k) for k in range(len(shown.attributes)))
            assert not (named[0] and named[1] and (COLOURS[attributes[0]], SHAPES[attributes[1]]) in HELD_OUT)
        again = decoys_of(shown, random.Random(seed), 3)
        assert torch.equal(again.attributes, asked.attributes)
        assert torch.equal(again.named, asked.named)
    assert drawn > 150
    assert short > 10


def test_decoys_of_a_clip_without_named_colours_differ_in_shape_or_size() -> None:
    shown = clip(3)
    shown.look[:, : len(COLOURS)] = 0
    asked = decoys_of(shown, random.Random(0), 2)
    assert len(asked)
    assert not asked.named[:, 0].any()
    assert all((wanted[1:] != shown.attributes[:, 1:]).any(1).all() for wanted in asked.attributes)


def test_every_pair_that_training_may_have_comes_up_as_a_decoy() -> None:
    found, clips = set(), [clip(seed) for seed in range(40)]
    for seed in range(1500):
        asked = decoys_of(clips[seed % 40], random.Random(seed), 4)
        pairs = asked.attributes[asked.named[:, :2].all(1)].tolist()
        found |= {(COLOURS[c], SHAPES[s]) for c, s, _ in pairs}
    assert found == {(c, s) for c in COLOURS for s in SHAPES} - HELD_OUT


def test_decoys_are_rows_behind_the_objects_and_on_no_frame() -> None:
    clips = [pictures(sample_scene(seed), [0, 5], 256) for seed in (1, 2)]
    rows = PromptRows.of(clips, random.Random(0), 2)
    objects, extra = sum(rows.counts), len(rows.truth) - sum(rows.counts)
    assert rows.counts == [len(each.attributes) for each in clips]
    assert extra == 2 * len(clips)
    assert rows.clip.tolist() == [0] * rows.counts[0] + [1] * rows.counts[1] + [0, 0, 1, 1]
    assert torch.equal(rows.truth[:objects], torch.cat([object_planes(each) for each in clips]))
    assert not rows.truth[objects:].any()


def test_a_token_names_only_what_is_asked() -> None:
    table = TokenTable(8)
    attributes = torch.tensor([[0, 1, 0], [3, 1, 0]])
    one, other = table(attributes, torch.tensor([[False, True, True], [False, True, True]]))
    assert torch.equal(one, other)
    assert not torch.equal(*table(attributes))
    torch.testing.assert_close(table(attributes), table(attributes, torch.ones(2, 3, dtype=torch.bool)))


def test_the_gate_is_taught_to_deny_decoys_of() -> None:
    torch.manual_seed(0)
    module = MaskTraining(TrajSegModel(TrajSegConfig.tiny(300, 259)).eval())
    score_bias = module.sam2.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
    clips, pulls = [pictures(sample_scene(1), [0], 256)], []
    for bias in (9.0, -9.0):
        torch.nn.init.constant_(score_bias, bias)
        loss, figures = module.loss(clips, ["key"], random.Random(0), 2)
        assert figures["seen_key"] == (bias > 0)
        assert figures["denied_key"] == (bias < 0)
        [gradient] = torch.autograd.grad(loss, [score_bias])
        pulls.append(float(gradient))
    # Decoys push an always-open gate down, and objects push an always-closed gate up.
    assert pulls[0] > 0 > pulls[1]


def test_figures_leave_out_decoys_and_absent_objects() -> None:
    target = torch.zeros(3, 4, 4)
    target[0, :2], target[1, 2:] = 1, 1
    logits = torch.where(target > 0, 5.0, -5.0)
    logits[2] = 5.0  # the decoy has a mask everywhere
    present = torch.tensor([True, True, False])
    assert mask_figures(logits, target, present, [2]) == pytest.approx({"iou": 1, "right": 1, "same": 0})
    assert gate_figures(torch.tensor([1.0, -1.0, 1.0]), present) == {"seen": 0.5, "denied": 0.0}
    assert gate_figures(torch.ones(2), present[:2]) == {"seen": 1.0}
