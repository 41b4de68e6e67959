"""The rules of trajseg.correction.strategy as tests: subclass StrategyContract and give it a strategy."""

from __future__ import annotations

import numpy as np
import pytest

from trajseg.correction.strategy import Evidence, ReviewStrategy
from trajseg.tracks import MaskTrack

FRAMES = 30


def moving_square(lost: range = range(0)) -> MaskTrack:
    """A square that moves right by two pixels per frame, and is absent in the frames `lost`."""
    masks: list[np.ndarray | None] = []
    for frame in range(FRAMES):
        mask = np.zeros((40, 120), bool)
        mask[10:25, 5 + 2 * frame : 20 + 2 * frame] = True
        masks.append(None if frame in lost else mask)
    return MaskTrack.from_masks("t1", masks, [frame / 10 for frame in range(FRAMES)], [0.9] * FRAMES)


class StrategyContract:
    """The rules for every strategy. A subclass named Test... has a fixture `strategy`."""

    @pytest.fixture
    def strategy(self) -> ReviewStrategy:
        raise NotImplementedError("Give the strategy to check.")

    def test_it_suggests_different_frames_of_the_clip_and_no_more_than_it_may(self, strategy: ReviewStrategy) -> None:
        for count in (1, 3, FRAMES + 5):
            frames = [one.index for one in strategy.suggest(moving_square(), count)]
            assert 1 <= len(frames) <= count
            assert len(set(frames)) == len(frames)
            assert set(frames) <= set(range(FRAMES))

    def test_it_never_suggests_what_a_person_painted(self, strategy: ReviewStrategy) -> None:
        painted = Evidence(painted=range(0, FRAMES, 2))
        assert not {one.index for one in strategy.suggest(moving_square(), 10, painted)} & set(painted.painted)
        assert strategy.suggest(moving_square(), 3, Evidence(painted=range(FRAMES))) == []

    def test_the_same_track_gives_the_same_frames(self, strategy: ReviewStrategy) -> None:
        track = moving_square(lost=range(12, 18))
        assert strategy.suggest(track) == strategy.suggest(track)

    def test_every_frame_has_a_doubt_and_painted_ones_have_none(self, strategy: ReviewStrategy) -> None:
        doubts = strategy.doubts(moving_square(), Evidence(painted=[4]))
        assert doubts.shape == (FRAMES,)
        assert (doubts >= 0).all()
        assert (doubts <= 1).all()
        assert doubts[4] == 0

    def test_a_track_that_is_never_seen_is_no_error(self, strategy: ReviewStrategy) -> None:
        assert strategy.suggest(moving_square(lost=range(FRAMES)))
