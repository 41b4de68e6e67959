"""Detection of lost objects from the areas of their masks."""

from __future__ import annotations

from trajseg.engines.grounded.losing import LostObject


def test_a_mask_that_becomes_the_whole_picture_is_lost() -> None:
    watch = LostObject()
    assert [watch.lost(share) for share in (0.2, 0.21, 0.22, 0.97, 0.98)] == [False, False, False, True, True]


def test_an_object_that_slowly_fills_the_picture_is_not_lost() -> None:
    watch = LostObject()
    assert not any(watch.lost(0.1 * 1.1**step) for step in range(24))


def test_small_mask_that_suddenly_grows_is_lost() -> None:
    watch = LostObject()
    assert [watch.lost(share) for share in (0.01, 0.011, 0.3)] == [False, False, True]


def test_an_object_that_was_hidden_may_come_back() -> None:
    watch = LostObject()
    assert not any(watch.lost(share) for share in (0.1, 0.02, 0.0, 0.0, 0.03, 0.1))


def test_detector_confirms_a_new_size() -> None:
    watch = LostObject()
    watch.lost(0.05)
    watch.anchor(0.6)
    assert not watch.lost(0.62)
