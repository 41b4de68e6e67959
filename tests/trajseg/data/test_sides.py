"""The share of held-out videos falls as a project grows."""

from __future__ import annotations

from itertools import pairwise

import pytest

from trajseg.data.sides import FIRST_VIDEOS, expected_held_out, side_of, videos_to_hold_out

VIDEOS = [f"sha256:{number:064x}" for number in range(4000)]


def test_half_of_the_first_videos_are_held_out_and_a_fifth_of_the_later_ones() -> None:
    for earlier, share in ((0, 0.5), (FIRST_VIDEOS - 1, 0.5), (FIRST_VIDEOS, 0.2), (10_000, 0.2)):
        held_out = sum(side_of(video, earlier) == "held-out" for video in VIDEOS)
        assert held_out / len(VIDEOS) == pytest.approx(share, abs=0.025)


def test_an_unknown_side_guessed_as_of_a_first_video_trains_on_no_held_out_one() -> None:
    later = {video for video in VIDEOS if side_of(video, FIRST_VIDEOS) == "held-out"}
    assert later < {video for video in VIDEOS if side_of(video) == "held-out"}


def test_so_many_are_held_out_on_average() -> None:
    assert [expected_held_out(videos) for videos in (0, 5, 10, 20, 40, 100)] == [0, 2.5, 5, 10, 14, 26]


def test_so_many_more_videos_hold_out_so_many_more() -> None:
    assert videos_to_hold_out(3, 0) == 6
    assert videos_to_hold_out(1, 19) == 4, "half a video of the twentieth, half of the next three"
    assert videos_to_hold_out(3, 20) == 15
    assert videos_to_hold_out(0, 7) == 0
    for videos in range(60):
        needed = [videos_to_hold_out(more, videos) for more in range(30)]
        assert all(after > before for before, after in pairwise(needed))
        for more, count in enumerate(needed):
            reached = expected_held_out(videos + count) - expected_held_out(videos)
            assert more - 1e-6 <= reached < more + 0.5, "no fewer, and none too many"
