"""The review suggests the frames where something went wrong, with the reason."""

from __future__ import annotations

import numpy as np
import pytest

from trajseg.correction.review import doubts_of, suggest
from trajseg.correction.strategy import Evidence
from trajseg.tracks import MaskTrack

N, H, W = 40, 60, 200


def square(x: int, side: int = 20) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[20 : 20 + side, x : x + side] = True
    return mask


def track(masks: list[np.ndarray | None] | None = None, scores: list[float] | None = None) -> MaskTrack:
    """A square that moves right, by default by three pixels per frame."""
    masks = masks or [square(10 + 3 * i) for i in range(N)]
    return MaskTrack.from_masks("t1", masks, [i / 10 for i in range(N)], scores or [1.0] * N)


def changed(**frames: np.ndarray | None) -> MaskTrack:
    masks: list[np.ndarray | None] = [square(10 + 3 * i) for i in range(N)]
    for name, mask in frames.items():
        masks[int(name[1:])] = mask
    return track(masks)


@pytest.mark.parametrize(
    ("doubtful", "frames", "reasons"),
    [
        (track([square(10) if i < 15 else None for i in range(N)]), {14, 15}, {"object lost"}),
        (track([None if i < 15 else square(10) for i in range(N)]), {14, 15}, {"object found"}),
        (changed(f20=square(70, 35)), {19, 20, 21}, {"area jump"}),
        (changed(f20=square(150)), {19, 20, 21}, {"position jump"}),
        (track(scores=[0.1 if i == 8 else 1.0 for i in range(N)]), {8}, {"low mask score"}),
    ],
)
def test_what_went_wrong_is_looked_at_with_its_reason(doubtful: MaskTrack, frames: set[int], reasons: set[str]) -> None:
    hits = [one for one in suggest(doubtful) if one.index in frames]
    assert {one.reason for one in hits} == reasons
    assert all(one.doubt > 0.4 for one in hits)


def test_passes_that_disagree_are_looked_at() -> None:
    hits = [one for one in suggest(track(), evidence=Evidence(agreement={30: 0.1, 10: 0.97})) if one.index == 30]
    assert [one.reason for one in hits] == ["passes disagree"]


def test_a_track_without_trouble_is_looked_at_evenly() -> None:
    looks = sorted(one.index for one in suggest(track()))
    assert len(looks) == 3
    assert np.diff([0, *looks, N - 1]).min() >= 4
    assert {one.reason for one in suggest(track())} == {"not yet seen"}


def test_frames_that_a_person_vouched_for_are_settled() -> None:
    doubtful = changed(f20=square(150))
    assert not {one.index for one in suggest(doubtful, evidence=Evidence(range(18, 23)))} & set(range(18, 23))
    assert suggest(doubtful, evidence=Evidence(range(N))) == []
    assert len(suggest(doubtful, 10, Evidence(range(N - 2)))) == 2
    doubts, _ = doubts_of(doubtful, Evidence([20]))
    assert doubts[20] == 0


def test_an_absent_object_has_no_low_mask_score() -> None:
    doubts, _ = doubts_of(track([None] * N, [0.0] * N))
    assert doubts.max() < 0.3


def test_a_long_track_is_reviewed_in_a_moment() -> None:
    masks: list[np.ndarray | None] = [square(10) if i < 4321 else None for i in range(10_000)]
    long = MaskTrack.from_masks("t1", masks, list(range(len(masks))), [1.0] * len(masks))
    assert min(abs(one.index - 4320) for one in suggest(long)) < 0.01 * len(long)
