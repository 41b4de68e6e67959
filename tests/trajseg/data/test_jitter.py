"""Jitter: all frames of a clip are changed alike, masks go with the pictures, and words stay true."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from trajseg.data.jitter import Jitter
from trajseg.data.samples import Sample, boxes_of


def square(left: int, top: int, side: int = 20) -> np.ndarray:
    mask = np.zeros((80, 120), bool)
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.fixture
def samples() -> list[Sample]:
    """A white square that moves to the right over a dark clip, asked about and described."""
    masks = np.stack([square(30 + 10 * t, 30) for t in range(3)])[None]
    frames = np.where(masks[0][..., None], 200, 40).astype(np.uint8).repeat(3, axis=3)
    asked = Sample("grounding", frames, "the square", "a square [SEG] .", masks)
    none = Sample("grounding", frames, "the ring", "there is no such object .", masks[:0])
    described = Sample("captioning", frames, "describe it", "a square [SEG] .", masks, boxes_of(masks[0]))
    return [asked, none, described]


def test_masks_boxes_and_pictures_move_together_in_all_frames(samples: list[Sample]) -> None:
    for seed in range(20):
        asked, none, described = Jitter().apply(samples, random.Random(seed))
        assert asked.frames is none.frames is described.frames, "looked at once"
        bright = asked.frames.mean(axis=3) > 110
        for frame, mask in zip(bright, asked.masks[0], strict=True):
            assert (frame & mask).sum() > 0.85 * (frame | mask).sum()
        assert described.boxes is not None
        np.testing.assert_array_equal(described.boxes, boxes_of(asked.masks[0]))
        assert none.masks.shape == (0, 3, 80, 120)
        middles = (described.boxes[:, 0] + described.boxes[:, 2]) / 2
        assert (np.diff(middles) > 0.05).all(), "it still moves to the right"


def test_the_same_chance_changes_alike_and_another_one_does_not(samples: list[Sample]) -> None:
    one, again, other = (Jitter().apply(samples, random.Random(seed))[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.frames, again.frames)
    assert (one.frames != other.frames).any()
    assert (one.frames != samples[0].frames).any()


def test_an_object_is_never_moved_out_of_the_clip(samples: list[Sample]) -> None:
    edge = np.stack([square(118, 0, 2)] * 3)[None]
    clip = [replace(samples[0], masks=edge)]
    for seed in range(30):
        assert Jitter(shift=0.2).apply(clip, random.Random(seed))[0].masks.any()


def test_nothing_is_changed_by_a_jitter_of_nothing(samples: list[Sample]) -> None:
    asked = Jitter(0, 0, 0, 0).apply(samples, random.Random(0))[0]
    np.testing.assert_array_equal(asked.frames, samples[0].frames)
    np.testing.assert_array_equal(asked.masks, samples[0].masks)
