"""A rectangle or a click becomes the mask of the marked object, by colour."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trajseg.correction.grabcut import cut_out
from trajseg.errors import InputError
from trajseg.tracks import rle
from trajseg.tracks.mark import Mark
from trajseg.video import Clip, open_clip


@pytest.fixture
def clip(tiny_clip: Any) -> Clip:
    return open_clip(tiny_clip.path)


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return rle.iou(rle.encode(mask), rle.encode(truth))


def test_a_rectangle_around_an_object_becomes_its_mask(clip: Clip, tiny_clip: Any) -> None:
    """The red square of frame 3 is at 22 to 38, 8 to 24."""
    mask = cut_out(clip, Mark(3, (18.0, 4.0, 24.0, 24.0)))
    assert (mask.shape, mask.dtype) == ((64, 96), np.bool_)
    assert iou(mask, tiny_clip.red[3]) > 0.75
    assert np.array_equal(mask, cut_out(clip, Mark(3, (18.0, 4.0, 24.0, 24.0))))


def test_a_click_becomes_the_mask_of_what_it_hits(clip: Clip, tiny_clip: Any) -> None:
    assert iou(cut_out(clip, Mark(3, (29.0, 15.0, 1.0, 1.0), point=True)), tiny_clip.red[3]) > 0.75


def test_a_rectangle_over_nothing_gives_something_to_correct(clip: Clip) -> None:
    mask = cut_out(clip, Mark(11, (10.0, 40.0, 20.0, 12.0)))
    rows, columns = np.where(mask)
    assert (rows.min() >= 40, rows.max() < 52, columns.min() >= 10, columns.max() < 30) == (True,) * 4


def test_a_rectangle_that_reaches_out_of_the_picture_is_cut_at_its_edge(clip: Clip) -> None:
    assert cut_out(clip, Mark(0, (-10.0, -10.0, 40.0, 40.0))).shape == (64, 96)


@pytest.mark.parametrize(
    "prompt",
    [Mark(12, (1.0, 1.0, 5.0, 5.0)), Mark(0, (200.0, 1.0, 5.0, 5.0)), Mark(0, (-9.0, 1.0, 2.0, 2.0), True)],
)
def test_a_hint_beside_the_clip_is_refused(prompt: Mark, clip: Clip) -> None:
    with pytest.raises(InputError, match="mark"):
        cut_out(clip, prompt)
