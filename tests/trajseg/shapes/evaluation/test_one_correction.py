"""One correction is simulated like a person's, and only unpainted frames are measured."""

from __future__ import annotations

import json

from tests.trajseg.shapes.evaluation.test_review import HEIGHT, HalfRight
from trajseg.correction import FlowPropagator
from trajseg.shapes.evaluation.one_correction import APART, KINDS, CorrectionResult, one_correction, summary


def test_every_kind_of_correction_is_made_and_none_makes_other_frames_worse() -> None:
    results = list(one_correction(HalfRight(), [FlowPropagator()], split="val", count=1, seed=7, height=HEIGHT))
    assert [one.kind for one in results] == list(KINDS)
    figures = summary(results)
    assert figures["mean_change"] > 0.05
    assert figures["worst_clip_change"] >= -0.005
    for one in results:
        [painted] = one.painted
        assert one.after[painted] >= one.before[painted]
        assert json.loads(json.dumps(one.to_json()))["change"] == one.change


def test_two_painted_frames_lie_apart_and_make_no_other_frame_worse() -> None:
    engine, flow = HalfRight(), [FlowPropagator()]
    results = list(one_correction(engine, flow, split="val", count=1, seed=7, height=HEIGHT, frames=(2,)))
    assert {"erase", "redraw", "box"} <= {one.kind for one in results}
    for one in results:
        first, second = one.painted
        assert second - first >= APART * len(one.before)
    figures = summary(results)
    assert figures["mean_change_of_2"] > 0.05
    assert figures["worst_clip_change_of_2"] >= -0.005


def test_the_painted_frame_does_not_count() -> None:
    result = CorrectionResult(0, "x", "redraw", [1], [0.5, 0.0, 0.5], [0.6, 1.0, 0.5], ["flow", "person", "model"])
    assert abs(result.change - 0.05) < 1e-9
