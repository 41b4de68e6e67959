"""The replacements for SAM 3's kernel, against straightforward implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from transformers.models.sam3_video import modeling_sam3_video as published

from trajseg.engines.sam3.operations import MaskOperations, install


def test_components_are_labelled_and_measured_as_scipy_does() -> None:
    masks = (np.random.default_rng(0).random((3, 1, 33, 21)) > 0.6).astype(np.uint8)
    labels, counts = MaskOperations().cc_2d(torch.from_numpy(masks))
    assert labels.dtype == counts.dtype == torch.int32
    assert labels.shape == counts.shape == masks.shape
    for plane, label, count in zip(masks[:, 0], labels[:, 0].numpy(), counts[:, 0].numpy(), strict=True):
        expected, number = ndimage.label(plane, structure=np.ones((3, 3)))
        areas = np.bincount(expected.ravel(), minlength=number + 1)
        areas[0] = 0
        assert np.array_equal(count, areas[expected])
        assert len(np.unique(label)) == number + 1
        assert np.array_equal(label == 0, plane == 0)


def test_of_masks_of_one_object_the_best_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "cv_utils_kernel", None)
    install()
    masks = torch.full((4, 20, 20), -1.0)
    masks[0, :10, :10] = 1
    masks[1, 1:11, :10] = 1
    masks[2, 12:, 12:] = 1
    masks[3, 12:, 12:] = 1
    scores = torch.tensor([0.6, 0.9, 0.8, 0.1])
    kept = published.nms_masks(scores, masks, prob_threshold=0.5, iou_threshold=0.1)
    assert kept.tolist() == [False, True, True, False]


def test_pinholes_are_filled_and_sprinkles_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "cv_utils_kernel", None)
    install()
    mask = torch.full((1, 1, 40, 40), -1.0)
    mask[0, 0, 5:25, 5:25] = 1
    mask[0, 0, 10, 10] = -1
    mask[0, 0, 35, 35] = 1
    cleaned = published.fill_holes_in_mask_scores(mask, max_area=16) > 0
    assert cleaned[0, 0, 5:25, 5:25].all()
    assert cleaned.sum() == 400


def test_no_kernel_is_ever_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> None:
        raise AssertionError("a compiled kernel would be downloaded")

    monkeypatch.setattr(published, "cv_utils_kernel", None)
    monkeypatch.setattr(published, "is_kernels_available", lambda: True)
    monkeypatch.setattr(published, "get_kernel", download, raising=False)
    install()
    published.fill_holes_in_mask_scores(torch.ones(1, 1, 4, 4), max_area=4)
