"""Scores equal those of slow reference implementations, with the official evaluation's edge cases."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from trajseg.evaluation.metrics import (
    Presence,
    boundary,
    boundary_measure,
    match,
    presence,
    score,
    steadiness,
)
from trajseg.tracks.region_similarity import region_similarity


def blob(rng: np.random.Generator, height: int = 40, width: int = 56) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    cy, cx, ry, rx = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(3, 15), rng.uniform(3, 20)
    mask = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1
    return mask ^ (rng.random((height, width)) < 0.01)


def slow_boundary(mask: np.ndarray) -> np.ndarray:
    height, width = mask.shape
    edge = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            below, right = y + 1 < height, x + 1 < width
            if below and right:
                edge[y, x] = (
                    mask[y, x] != mask[y, x + 1] or mask[y, x] != mask[y + 1, x] or mask[y, x] != mask[y + 1, x + 1]
                )
            elif right:
                edge[y, x] = mask[y, x] != mask[y, x + 1]
            elif below:
                edge[y, x] = mask[y, x] != mask[y + 1, x]
    return edge


def slow_f(prediction: np.ndarray, truth: np.ndarray) -> float:
    height, width = truth.shape
    r = math.ceil(0.008 * math.sqrt(height**2 + width**2))
    p, t = (np.argwhere(slow_boundary(m)) for m in (prediction, truth))
    if len(p) == 0 and len(t) == 0:
        precision, recall = 1.0, 1.0
    elif len(p) == 0:
        precision, recall = 1.0, 0.0
    elif len(t) == 0:
        precision, recall = 0.0, 1.0
    else:
        near = ((p[:, None] - t[None]) ** 2).sum(-1) <= r * r
        precision, recall = near.any(1).mean(), near.any(0).mean()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("size", [(40, 56), (31, 17), (200, 320)])
def test_j_and_f_equal_the_definitions_written_out_in_loops(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(size[0])
    for _ in range(6 if size[0] < 100 else 2):
        p, t = blob(rng, *size), blob(rng, *size)
        p = p if rng.random() < 0.5 else np.roll(t, (2, -1), (0, 1))
        np.testing.assert_array_equal(boundary(p), slow_boundary(p))
        assert boundary_measure(p, t) == pytest.approx(slow_f(p, t), abs=1e-6)
        both, either = sum((p & t).ravel().tolist()), sum((p | t).ravel().tolist())
        assert region_similarity(p, t) == pytest.approx(both / either, abs=1e-6)


def test_tolerance_is_a_disk_of_the_official_radius() -> None:
    # 480 x 854 allows 8 pixels: a line 8 pixels off matches, one 9 pixels off does not.
    truth = np.zeros((480, 854), bool)
    truth[:, 400:] = True
    assert boundary_measure(np.roll(truth, 8, 1) & (np.arange(854) >= 408), truth) == pytest.approx(1.0)
    off = np.arange(854)[None].repeat(480, 0) >= 409
    assert boundary_measure(off, truth) == 0.0


def test_empty_and_full_masks_score_as_in_the_official_evaluation() -> None:
    empty, full = np.zeros((20, 30), bool), np.ones((20, 30), bool)
    some = empty.copy()
    some[5:9, 5:9] = True
    assert (region_similarity(empty, empty), boundary_measure(empty, empty)) == (1.0, 1.0)
    assert (region_similarity(empty, some), boundary_measure(empty, some)) == (0.0, 0.0)
    assert (region_similarity(some, empty), boundary_measure(some, empty)) == (0.0, 0.0)
    # An oddity of the official code: a mask that fills the frame has no boundary.
    assert (region_similarity(full, empty), boundary_measure(full, empty)) == (0.0, 1.0)


def test_j_and_f_of_a_step_are_those_counted_by_hand() -> None:
    # 20 x 30 pixels allow 1 pixel. The truth starts at column 10, the prediction's lower half at column 14.
    truth = np.zeros((20, 30), bool)
    truth[:, 10:] = True
    prediction = truth.copy()
    prediction[10:, :14] = False
    assert region_similarity(prediction, truth) == pytest.approx(360 / 400, abs=1e-6)
    # Boundaries: 20 pixels of the truth, in column 9; of the prediction 10 there, 4 along the step, 10 in column 13.
    # Of these, 11 are near the truth's, and 11 of the truth's are near them.
    precision, recall = 11 / 24, 11 / 20
    assert boundary_measure(prediction, truth) == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-6)
    assert boundary_measure(truth, prediction) == pytest.approx(0.5, abs=1e-6)


def test_a_frame_without_truth_counts_against_or_for_the_whole_sequence() -> None:
    truth = np.zeros((4, 20, 30), bool)
    truth[:2, :, 10:] = True
    prediction = truth.copy()
    prediction[3, 5:9, 5:9] = True
    # Two exact frames, one empty in both, one with a mask without an object.
    assert score(prediction, truth).j == pytest.approx(3 / 4, abs=1e-6)
    assert score(prediction, truth).f == pytest.approx(3 / 4, abs=1e-6)


def test_a_sequence_scores_the_mean_over_all_frames() -> None:
    rng = np.random.default_rng(3)
    p, t = np.stack([blob(rng) for _ in range(4)]), np.stack([blob(rng) for _ in range(4)])
    result = score(p, t)
    assert result.j == pytest.approx(sum(region_similarity(a, b) for a, b in zip(p, t, strict=True)) / 4, abs=1e-6)
    assert result.f == pytest.approx(sum(slow_f(a, b) for a, b in zip(p, t, strict=True)) / 4, abs=1e-6)
    assert result.jf == pytest.approx((result.j + result.f) / 2)
    assert score(None, t) == score(np.zeros_like(t), t)


def test_masks_of_another_size_are_refused_and_not_broadcast() -> None:
    with pytest.raises(ValueError, match="prediction"):
        score(np.zeros((1, 4, 4), bool), np.zeros((3, 4, 4), bool))


def test_steadiness_counts_pairs_of_empty_masks_in_one_variant_only() -> None:
    masks = np.zeros((5, 4, 4), bool)
    masks[2:, :2] = True
    masks[3, :1] = False
    # Pairs: empty-empty, empty-8, 8-4 (.5), 4-8 (.5).
    result = steadiness(masks)
    assert result.mean == pytest.approx((1 + 0 + 0.5 + 0.5) / 4, abs=1e-6)
    assert result.mean_present == pytest.approx((0 + 0.5 + 0.5) / 3, abs=1e-6)
    assert result.empty_share == pytest.approx(1 / 4)
    assert steadiness(masks[:2]).mean_present == 1.0
    assert steadiness(masks[:1]).mean == 1.0


@pytest.mark.parametrize(("truth_count", "prediction_count"), [(1, 3), (3, 3), (3, 2), (4, 1), (2, 0), (0, 2)])
def test_matching_is_the_best_of_all_pairings(truth_count: int, prediction_count: int) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        truths = [np.stack([blob(rng, 20, 24)]) for _ in range(truth_count)]
        predictions = [np.stack([blob(rng, 20, 24)]) for _ in range(prediction_count)]

        def worth(pairing: list[int | None]) -> float:
            chosen = zip(truths, pairing, strict=True)  # noqa: B023
            return sum(score(predictions[j], t).jf for t, j in chosen if j is not None)  # noqa: B023

        options = [*range(prediction_count), *[None] * truth_count]
        best = max(worth(list(p)) for p in set(itertools.permutations(options, truth_count)))
        found = match(predictions, truths)
        used = [j for j in found if j is not None]
        assert len(found) == truth_count
        assert len(set(used)) == len(used)
        assert worth(found) == pytest.approx(best, abs=1e-6)


def test_presence_counts_ghosts_and_missed_frames_apart() -> None:
    truth, drawn = np.zeros((5, 4, 4), bool), np.zeros((5, 4, 4), bool)
    truth[:2, 0, 0] = True
    drawn[1:4, 3, 3] = True
    both = presence(drawn, truth)
    assert (both.ghosts, both.missed) == pytest.approx((2 / 3, 0.5))
    nowhere = presence(drawn[2:], truth[2:])
    assert nowhere.ghosts == pytest.approx(2 / 3)
    assert nowhere.missed is None
    assert presence(drawn[:2], truth[:2]) == Presence(ghosts=None, missed=0.5)
