"""Intervals of the mean gain over clips: they cover what they say, and tell how many more clips would help."""

from __future__ import annotations

import numpy as np
import pytest

from trajseg.training.gain_interval import IntervalRules, confidence_interval, missing_clips


@pytest.mark.parametrize(("clips", "expressions"), [(3, 1), (5, 1), (30, 1), (3, 8), (5, 4)])
@pytest.mark.parametrize("between", [0.0, 0.1])
def test_intervals_cover_the_true_mean_as_often_as_they_say(clips: int, expressions: int, between: float) -> None:
    rng, covered = np.random.default_rng(clips), 0
    for _ in range(300):
        gains = 0.1 + rng.normal(0, between, (clips, 1)) + rng.normal(0, 0.2, (clips, expressions))
        interval = confidence_interval(gains.tolist(), IntervalRules(resamples=500))
        covered += interval.low <= 0.1 <= interval.high
    assert covered / 300 > 0.92


def test_one_clip_tells_nothing() -> None:
    assert confidence_interval([[0.3, 0.3]]).low == -1.0


def test_the_clips_that_are_missing_are_counted_where_there_is_a_gain() -> None:
    assert missing_clips([[0.1], [0.11], [0.09]]) == 0
    assert missing_clips([[-0.1], [-0.2]]) is None
    assert missing_clips([[0.3], [-0.31], [0.02]]) is None, "beyond what can be extrapolated"
