"""Propagation by the model's memory: in both directions, from the given masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trajseg import VideoSegmenter
from trajseg.correction import MemoryPropagator
from trajseg.shapes.world.render import render, write_clip
from trajseg.shapes.world.scenes import sample_scene
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import Clip, open_clip

SEED = 5


@pytest.fixture(scope="module")
def propagator() -> MemoryPropagator:
    return VideoSegmenter.from_pretrained("trajseg-tiny", device="cpu").propagator()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, np.ndarray]:
    """A shapes clip of 10 frames and one of its objects, bool [10, 96, W]: the one with the largest smallest mask."""
    scene = sample_scene(SEED, "val", frame_count=10, aspect=1.0)
    clip = open_clip(write_clip(scene, tmp_path_factory.mktemp("shapes") / "clip.mp4", 96))
    ids = render(scene, 96)[1]
    k = max(range(1, len(scene.objects) + 1), key=lambda k: (ids == k).sum(axis=(1, 2)).min())
    return clip, ids == k


def test_memory_carries_a_mask_from_the_middle_to_both_ends(
    propagator: MemoryPropagator, shapes: tuple[Clip, np.ndarray]
) -> None:
    clip, truth = shapes
    drawn = list(propagator.propagate(clip, {5: truth[5]}))
    assert [one.index for one in drawn] == list(range(10))
    assert np.array_equal(drawn[5].mask, truth[5])
    assert np.mean([region_similarity(one.mask, truth[one.index]) for one in drawn]) > 0.7
    assert all(0 <= one.score <= 1 for one in drawn)


def test_between_two_painted_frames_both_passes_are_compared(
    propagator: MemoryPropagator, shapes: tuple[Clip, np.ndarray]
) -> None:
    clip, truth = shapes
    some = list(propagator.propagate(clip, {2: truth[2], 7: truth[7]}, frames=[0, 4]))
    assert [one.index for one in some] == [0, 4]
    assert some[0].agreement is None
    assert some[1].agreement is not None
    assert some[1].agreement > 0.5


def test_nothing_painted_anywhere_stays_nothing(propagator: MemoryPropagator, shapes: tuple[Clip, np.ndarray]) -> None:
    clip, truth = shapes
    drawn = list(propagator.propagate(clip, {0: np.zeros_like(truth[0]), 9: np.zeros_like(truth[0])}))
    assert np.mean([one.mask.any() for one in drawn]) < 0.5


def test_a_given_mask_is_remembered_with_its_presence(
    propagator: MemoryPropagator, shapes: tuple[Clip, np.ndarray]
) -> None:
    clip, truth = shapes
    sam2 = propagator._sam2
    features = propagator._windows.get(clip, 0)
    tracker = sam2.tracker(len(clip))
    with torch.inference_mode():
        tracker.paint(0, features, sam2.painted([truth[0]]))
        tracker.paint(1, features, sam2.painted([np.zeros_like(truth[0])]))
    here, gone = tracker.key_memories[0], tracker.key_memories[1]
    assert torch.equal(gone["obj_ptr"], sam2.sam2.no_obj_ptr)
    assert not torch.equal(here["obj_ptr"], gone["obj_ptr"])
    assert not torch.allclose(here["maskmem_features"], gone["maskmem_features"])
