"""Several painted frames are evidence about each other, and no other frame changes more than they support."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.trajseg.correction.test_one_frame import ELSEWHERE, Scripted, similarity, track_of
from trajseg.correction import FlowPropagator, refine
from trajseg.correction.marking import mask_of
from trajseg.tracks.mark import Mark
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import Clip, open_clip

NOWHERE = np.zeros((64, 96), bool)
BLOB = np.zeros((64, 96), bool)
BLOB[44:60, 80:94] = True
"""Masks without any motion."""


@pytest.fixture
def clip(tiny_clip: Any) -> Clip:
    return open_clip(tiny_clip.path)


def test_a_blob_erased_on_two_frames_goes_wherever_it_is_seen(clip: Clip, tiny_clip: Any) -> None:
    masks = [red | BLOB if index < 9 else red for index, red in enumerate(tiny_clip.red)]
    painted = {index: tiny_clip.red[index] for index in (1, 6)}
    refined = refine(clip, track_of(clip, masks), painted, [FlowPropagator()]).track
    assert min(similarity(refined, tiny_clip.red)) > 0.9
    assert not any((refined.mask(index) & BLOB).any() for index in range(12))
    # Where there was no blob, hardly a pixel of the edge differs.
    assert min(region_similarity(refined.mask(index), masks[index]) for index in (9, 10, 11)) > 0.98


def test_touch_ups_on_two_frames_change_no_frame_by_more_than_they_speak_for(clip: Clip, tiny_clip: Any) -> None:
    """The propagated mask has a high score, is right on the painted frames, and wrong in between."""
    wrong = Scripted([ELSEWHERE if index not in (1, 9) else tiny_clip.red[index] for index in range(12)])
    masks = [np.asarray(mask) for mask in tiny_clip.red]
    touched = {index: masks[index] | np.roll(masks[index], 3, axis=0) for index in (1, 9)}
    refined = refine(clip, track_of(clip, masks), touched, [wrong]).track
    most = max(1 - region_similarity(masks[index], mask) for index, mask in touched.items())
    for index in set(range(12)) - set(touched):
        assert 1 - region_similarity(refined.mask(index), masks[index]) <= 1.5 * most + 0.02, index


def test_two_touched_up_frames_say_nothing_about_frames_farther_away_than_they_are_apart(
    clip: Clip, tiny_clip: Any
) -> None:
    """What is carried is certain and right on the painted frames; farther away it drifts less than a person changed."""
    truth = [np.asarray(mask) for mask in tiny_clip.red]
    masks = [np.roll(mask, 3, axis=1) if index < 5 else mask for index, mask in enumerate(truth)]
    drifting = Scripted([mask if index < 6 else np.roll(mask, 1, axis=1) for index, mask in enumerate(truth)])
    refined = refine(clip, track_of(clip, masks), {1: truth[1], 3: truth[3]}, [drifting]).track
    assert min(similarity(refined, tiny_clip.red)[:5]) == 1.0
    assert all(np.array_equal(refined.mask(index), masks[index]) for index in range(6, 12))


def test_where_the_object_was_missed_says_nothing_of_where_something_was_found(clip: Clip, tiny_clip: Any) -> None:
    masks = [None if index == 6 else np.asarray(mask) for index, mask in enumerate(tiny_clip.red)]
    elsewhere = Scripted([ELSEWHERE] * 12)
    painted = {3: tiny_clip.red[3], 6: tiny_clip.red[6]}
    refined = refine(clip, track_of(clip, masks), painted, [elsewhere]).track
    assert all(np.array_equal(refined.mask(index), tiny_clip.red[index]) for index in range(12))


def test_a_mask_that_was_taken_away_goes_where_it_is_still_there(clip: Clip, tiny_clip: Any) -> None:
    """From frame 4 on the prediction shows a still object, and from 10 on another one."""
    masks = [*tiny_clip.blue[:4], *[BLOB] * 6, *tiny_clip.red[10:]]
    painted = {2: tiny_clip.blue[2], 5: NOWHERE}
    refined = refine(clip, track_of(clip, masks), painted, [FlowPropagator()]).track
    assert not any(refined.mask(index).any() for index in (5, 6, 7))
    assert all(np.array_equal(refined.mask(index), tiny_clip.red[index]) for index in (10, 11)), "that is another thing"


def test_an_object_that_is_lost_between_two_painted_frames_stays_as_predicted(clip: Clip, tiny_clip: Any) -> None:
    nothing = Scripted([NOWHERE] * 12)
    painted = {1: tiny_clip.red[1], 8: tiny_clip.red[8]}
    refined = refine(clip, track_of(clip, tiny_clip.blue), painted, [nothing]).track
    assert all(np.array_equal(refined.mask(i), tiny_clip.blue[i]) for i in range(12) if i not in painted)


def test_boxes_that_the_prediction_fills_change_no_other_frame(clip: Clip, tiny_clip: Any) -> None:
    """Colours would cut an object of two colours in half; the box is the prediction's own."""
    track = track_of(clip, [np.asarray(mask) for mask in tiny_clip.red])
    marks = [Mark(index, track.box(index) or (0.0, 0.0, 1.0, 1.0)) for index in (2, 9)]
    painted = {mark.index: mask_of(mark, clip, track, {}, []) for mark in marks}
    assert all(np.array_equal(mask, tiny_clip.red[index]) for index, mask in painted.items())
    half = {index: mask & (np.arange(96) % 4 > 0) for index, mask in painted.items()}
    refined = refine(clip, track, half, [FlowPropagator()], marked=set(half)).track
    assert all(np.array_equal(refined.mask(i), tiny_clip.red[i]) for i in range(12) if i not in half)


def test_a_change_that_makes_a_painted_frame_worse_is_not_carried_to_its_side(clip: Clip, tiny_clip: Any) -> None:
    """The person erased the blob on one frame and left it, repainting the rest, on another."""
    masks = [red | BLOB for red in tiny_clip.red]
    kept = masks[8] | np.roll(tiny_clip.red[8], 3, axis=0)
    painted = {2: tiny_clip.red[2], 8: kept}
    refined = refine(clip, track_of(clip, masks), painted, [FlowPropagator()]).track
    assert (refined.mask(7) & BLOB).sum() == BLOB.sum()


def test_three_painted_frames_decide_on_whole_masks_by_themselves(clip: Clip, tiny_clip: Any) -> None:
    """The prediction lies beside the object; what is carried is right, and was so on every frame that was left out."""
    masks = [np.roll(mask, 9, axis=1) for mask in tiny_clip.red]
    painted = {index: tiny_clip.red[index] for index in (1, 5, 9)}
    unsure = Scripted([np.asarray(mask) for mask in tiny_clip.red], score=0.4)
    refined = refine(clip, track_of(clip, masks), painted, [unsure]).track
    assert min(similarity(refined, tiny_clip.red)) == 1.0
