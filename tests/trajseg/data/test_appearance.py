"""Augmentation keeps masks and text true: appearance, borrowed look, jitter."""

from __future__ import annotations

import colorsys
import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import ArrayLike

from trajseg.data.appearance import Appearance
from trajseg.data.borrowed_look import BorrowedLook
from trajseg.data.jitter import Jitter
from trajseg.data.samples import Sample, boxes_of
from trajseg.shapes.samples import ShapesSamples

HEIGHT, WIDTH, FRAMES = 60, 90, 3
RED, BLUE, GREY = (200, 30, 40), (30, 50, 210), (90, 92, 88)


def squares(colours: tuple[tuple[int, int, int], ...] = (RED, BLUE), background: ArrayLike = GREY) -> list[Sample]:
    """Two squares moving right over a background: a grounding sample for each, and a caption of the first."""
    frames = np.empty((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    frames[:] = background
    objects = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    for t in range(FRAMES):
        for k, colour in enumerate(colours):
            area = np.s_[t, 10 + 25 * k : 28 + 25 * k, 20 + 10 * t : 38 + 10 * t]
            frames[area], objects[area] = colour, k + 1
    masks = [(objects == k + 1)[None] for k in range(len(colours))]
    asked = [Sample("grounding", frames, "it", "it [SEG] .", mask, objects=objects) for mask in masks]
    described = Sample("captioning", frames, "?", "it [SEG] .", masks[0], boxes_of(masks[0][0]), objects=objects)
    return [*asked, described]


def hue(colour: np.ndarray) -> float:
    """Degrees."""
    return 360 * colorsys.rgb_to_hsv(*(colour / 255))[0]


def hue_distance(one: float, other: float) -> float:
    return abs((one - other + 180) % 360 - 180)


CHANGES: Mapping[str, Callable[[Sequence[Sample], random.Random], list[Sample]]] = {
    "appearance": lambda samples, rng: Appearance().apply(samples, rng),
    "swap": lambda samples, rng: Appearance(swap=True).apply(samples, rng),
    "jitter": lambda samples, rng: Jitter().apply(samples, rng),
    "look": lambda samples, rng: look_of(squares()).apply(samples, rng),
}


def look_of(samples: list[Sample]) -> BorrowedLook:
    assert samples[0].objects is not None
    look = BorrowedLook.of(samples[0].frames, samples[0].objects, random.Random(0))
    assert look is not None
    return look


@pytest.mark.parametrize("name", CHANGES)
def test_same_seed_changes_a_clip_alike_and_shared_frames_stay_shared(name: str) -> None:
    samples = squares()
    before = samples[0].frames.copy()
    changed, again = CHANGES[name](samples, random.Random(4)), CHANGES[name](samples, random.Random(4))
    assert np.array_equal(samples[0].frames, before), "the input is unchanged"
    assert all(sample.frames is changed[0].frames for sample in changed)
    assert changed[0].frames.dtype == np.uint8
    assert not np.array_equal(changed[0].frames, before)
    for one, other in zip(changed, again, strict=True):
        assert np.array_equal(one.frames, other.frames)
        assert np.array_equal(one.masks, other.masks)
    assert not np.array_equal(changed[0].frames, CHANGES[name](samples, random.Random(5))[0].frames)
    assert [(each.instruction, each.answer) for each in changed] == [
        (each.instruction, each.answer) for each in samples
    ]


@pytest.mark.parametrize("name", ["appearance", "swap", "look"])
def test_appearance_keeps_masks_and_colour_names_true(name: str) -> None:
    samples = squares()
    for seed in range(12):
        changed = CHANGES[name](samples, random.Random(seed))
        for before, after, colour in zip(samples, changed, (RED, BLUE, RED), strict=True):
            assert after.masks is before.masks
            assert after.boxes is before.boxes
            inside = changed[0].frames[after.masks[0]].astype(float)
            vivid = inside[np.ptp(inside, axis=1) >= np.quantile(np.ptp(inside, axis=1), 0.5)].mean(axis=0)
            assert np.ptp(vivid) > 25, "an object keeps a colour"
            assert hue_distance(hue(vivid), hue(np.array(colour, float))) < 20


def test_background_is_replaced_only_if_all_objects_are_known() -> None:
    pattern = np.where((np.arange(WIDTH) // 6 % 2 == 0)[None, :, None], 60, 120)
    samples = squares(background=pattern)
    assert samples[0].objects is not None
    outside = samples[0].objects == 0

    def likeness(swap: bool, seed: int) -> float:
        changed = Appearance(objects=0, background=1, whole=0, swap=swap).apply(samples, random.Random(seed))
        pair = samples[0].frames[outside][:, 0], changed[0].frames[outside].mean(axis=1)
        return float(abs(np.corrcoef(*pair)[0, 1]))

    assert min(likeness(False, seed) for seed in range(20)) > 0.5
    assert min(likeness(True, seed) for seed in range(20)) < 0.2


def test_clip_with_unknown_objects_keeps_its_appearance() -> None:
    frames = squares()[0].frames
    sample = Sample("grounding", frames, "it", "none .", np.zeros((0, FRAMES, HEIGHT, WIDTH), bool))
    for seed in range(5):
        [changed] = Appearance(swap=True).apply([sample], random.Random(seed))
        assert np.array_equal(changed.frames, frames)
        [changed] = look_of(squares()).apply([sample], random.Random(seed))
        assert np.array_equal(changed.frames, frames)


def test_jitter_moves_frames_masks_boxes_and_objects_alike() -> None:
    samples = squares(background=0)
    turned = set()
    for seed in range(20):
        first, second, described = Jitter().apply(samples, random.Random(seed))
        assert first.objects is not None
        for sample, k, channel in ((first, 1, 0), (second, 2, 2)):
            assert np.array_equal(sample.masks[0], first.objects == k)
            strong = sample.frames[..., channel].astype(int) - sample.frames[..., 2 - channel]
            assert np.mean((strong > 80) == sample.masks[0]) > 0.98
        assert described.boxes is not None
        assert np.array_equal(described.boxes, boxes_of(described.masks[0]))
        lefts = described.boxes[:, 0]
        assert lefts[0] < lefts[1] < lefts[2], "the object still moves right"
        ratio = described.masks[0].sum() / samples[0].masks[0].sum()
        assert 0.7 < ratio < 1.4, "the object keeps its size"
        turned.add(round(float(ratio), 3))
    assert len(turned) > 10


def test_jitter_moves_no_target_out_of_a_frame() -> None:
    frames = np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)
    masks = np.zeros((1, 1, HEIGHT, WIDTH), bool)
    masks[0, 0, :2, :2] = True
    sample = Sample("grounding", frames, "it", "it [SEG] .", masks)
    kept = 0
    for seed in range(20):
        [moved] = Jitter().apply([sample], random.Random(seed))
        assert moved.masks.any()
        kept += moved is sample
    assert 0 < kept < 20


def test_look_has_the_rim_filling_and_background_of_the_other_clip() -> None:
    lender = squares(colours=((20, 120, 40),), background=(10, 60, 110))
    frames = lender[0].frames.copy()
    mask = lender[0].masks[0]
    inner = mask & np.roll(mask, 3, 1) & np.roll(mask, -3, 1) & np.roll(mask, 3, 2) & np.roll(mask, -3, 2)
    frames[mask & ~inner] = (230, 250, 235)
    assert lender[0].objects is not None
    look = BorrowedLook.of(frames, lender[0].objects, random.Random(0))
    assert look is not None
    changed = look.apply(squares(), random.Random(1))
    drawn = changed[0].frames.astype(float)
    red = changed[0].masks[0, 0]
    middle = np.zeros_like(red)
    middle[17:21, 27:31] = True
    edge = red.copy()
    edge[12:26, 22:36] = False
    assert drawn[0][edge].min(axis=1).mean() > 120, "a light rim"
    filling = drawn[0][red & middle].mean(axis=0)
    assert filling[0] > 2.5 * max(filling[1:]), "filled with its own hue"
    assert filling[0] < 150, "as dark as the other's filling"
    outside = changed[0].objects == 0
    assert np.abs(np.median(drawn[outside], axis=0) - (10, 60, 110)).max() < 6


def test_object_too_small_to_measure_gives_no_look() -> None:
    objects = np.zeros((1, HEIGHT, WIDTH), np.uint8)
    objects[0, :5, :5] = 1
    assert BorrowedLook.of(np.zeros((1, HEIGHT, WIDTH, 3), np.uint8), objects, random.Random(0)) is None


def test_scenes_of_the_base_are_rotated_by_any_angle() -> None:
    upright, turned = ShapesSamples(size=64), ShapesSamples(size=64, turned=1.0)
    pairs = [
        (upright.video(random.Random(seed), 2, "propagation"), turned.video(random.Random(seed), 2, "propagation"))
        for seed in range(4)
    ]
    assert any(
        not np.array_equal(one.masks, other.masks) for one, other in pairs if one.masks.shape == other.masks.shape
    )
    for _, sample in pairs:
        assert sample.objects is not None
        assert any(np.array_equal(sample.masks[0], sample.objects == k) for k in np.unique(sample.objects))
