"""How many more corrections are needed for a worthwhile training, extrapolated from the learning curve."""

from __future__ import annotations

from typing import Any

import pytest

from backend.learning_curve import CurvePoint, advice, curve
from backend.store.models import ModelVersion
from trajseg.data.sides import MIN_HELD_OUT
from trajseg.training.gate import ClipPair, decide

BASE = "trajseg-tiny"


def point(videos: int, candidate: float, served: float = 0.5, reach: float = 0.05, **more: Any) -> CurvePoint:
    given = {"from_base": True, "promoted": False, **more}
    return CurvePoint(
        "v", videos, max(3, videos // 3), served, candidate, gain=candidate - served, reach=reach, **given
    )


def test_before_the_first_training_the_gate_needs_so_many() -> None:
    assert advice([], 0).videos == 6
    assert advice([], 4).videos == 2
    assert advice([], 6).videos == 0
    needed = decide({"a": [0.5]}, {"a": [0.6]}, {"b": [0.5]}, {"b": [0.5]}).needs_videos
    assert needed == MIN_HELD_OUT - 1, "the gate's own rule"


def test_a_gain_that_may_be_chance_needs_more_videos_to_show() -> None:
    found = advice([point(10, 0.53, reach=0.05)], 10)
    assert found.videos is not None
    assert 3 <= found.videos <= 30
    assert "more corrected videos" in found.words
    nearer = advice([point(10, 0.53, reach=0.05)], 10 + found.videos)
    assert nearer.videos == 0
    assert advice([point(10, 0.53, reach=0.1)], 10).videos > found.videos, "noisier clips need more"  # type: ignore[operator]


def test_after_a_promotion_the_next_gain_has_to_show_beyond_it() -> None:
    first = point(10, 0.60, reach=0.04, promoted=True)
    found = advice([first], 10)
    assert found.videos is not None
    assert found.videos > 0, "the same videos would bring nothing"
    # Measured on one more held-out video, an easy one: the line lies above what the last training reached.
    first, last = point(6, 0.84, reach=0.02, promoted=True), point(8, 0.79, reach=0.01, from_base=False)
    assert advice([first, last], 8).videos == 1
    assert advice([first, last], 9).videos == 0


def test_a_curve_that_does_not_rise_gives_no_number() -> None:
    found = advice([point(10, 0.49)], 12)
    assert found.videos is None
    assert "does not rise" in found.words
    only = advice([point(10, 0.6, from_base=False)], 10)
    assert (only.videos, "from one training" in only.words) == (None, True), "a curve needs two points"
    far = advice([point(10, 0.5001, reach=0.3)], 10)
    assert far.videos is None
    assert "10 times" in far.words


def test_the_curve_is_read_from_what_the_gate_measured() -> None:
    served, candidate = ({f"c{n}": [score] for n in range(4)} for score in (0.5, 0.68))
    base = {"b": [0.9]}
    measured = decide(served, candidate, base, base, served_version=BASE)
    assert isinstance(measured.project[0], ClipPair)
    clips = [{"name": f"c{n}", "identity": f"v{n}", "side": "train"} for n in range(8)]
    clips.append({"name": "another task", "identity": "v7", "side": "train"})
    versions = [
        ModelVersion(
            number=2, name="v2", base=BASE, manifest={"decision": measured.to_json(), "data": {"clips": clips}}
        ),
        ModelVersion(number=1, name="v1", base=BASE, manifest={"decision": {"promoted": False, "needs_videos": 3}}),
    ]
    (found,) = curve(versions)
    assert (found.version, found.videos, found.held_out, found.from_base, found.promoted) == ("v2", 8, 4, True, True)
    assert (found.served, found.candidate, found.gain) == pytest.approx((0.5, 0.68, 0.18))
