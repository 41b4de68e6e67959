"""A picture has its frame number in the corner, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from trajseg.pictures.frame_number import numbered


def picture(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 120, np.uint8)


@pytest.mark.parametrize(("height", "width"), [(240, 320), (360, 640), (1080, 1920)])
def test_the_number_stands_in_the_lower_left_corner_and_little_is_covered(height: int, width: int) -> None:
    plain = picture(height, width)
    out = numbered(plain, 1024)
    rows, columns = np.nonzero((out != plain).any(axis=2))
    assert (out.shape, out.dtype) == (plain.shape, np.uint8)
    assert (rows.max(), columns.min()) == (height - 1, 0)
    assert rows.min() > height * 0.85
    assert columns.max() < width * 0.45
    assert (plain == 120).all(), "the frame itself is left as it is"


def test_two_numbers_look_different() -> None:
    assert not np.array_equal(numbered(picture(240, 320), 7), numbered(picture(240, 320), 8))


def test_a_picture_too_small_for_a_number_is_left() -> None:
    plain = picture(160, 240)
    assert numbered(plain, 3) is plain
