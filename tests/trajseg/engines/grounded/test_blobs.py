"""Stray pieces far from an object are removed; its own pieces and holes stay."""

from __future__ import annotations

import numpy as np

from trajseg.engines.grounded.blobs import without_blobs


def blank() -> np.ndarray:
    return np.zeros((100, 160), bool)


def test_small_blob_far_away_is_removed() -> None:
    mask = blank()
    mask[20:60, 20:60] = True
    clean = mask.copy()
    mask[80:85, 140:146] = True
    assert np.array_equal(without_blobs(mask), clean)


def test_half_of_an_object_behind_a_pole_stays() -> None:
    mask = blank()
    mask[20:60, 20:40] = True
    mask[20:60, 70:86] = True
    assert np.array_equal(without_blobs(mask), mask)


def test_a_small_piece_beside_the_object_stays() -> None:
    mask = blank()
    mask[20:60, 20:60] = True
    mask[20:24, 63:67] = True
    assert np.array_equal(without_blobs(mask), mask)


def test_a_ring_keeps_its_hole_and_loses_a_pinhole() -> None:
    y, x = np.mgrid[:100, :160]
    distance = np.hypot(y - 50, x - 80)
    ring = (distance < 40) & (distance > 20)
    pricked = ring.copy()
    pricked[50, 110] = False
    assert np.array_equal(without_blobs(pricked), ring)


def test_an_empty_mask_stays_empty() -> None:
    assert not without_blobs(blank()).any()
