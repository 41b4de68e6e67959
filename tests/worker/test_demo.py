"""The scoring of `make demo`: the clip, its ground truth, and the printed score."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trajseg.tracks import MaskTrack, Result
from trajseg.video import open_clip

DEMO: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "demo.py"))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return DEMO["shapes_case"](tmp_path_factory.mktemp("shapes"))


def result_of(case: Any, masks: list[np.ndarray]) -> Result:
    clip = open_clip(case.video)
    times = clip.frame_map.times
    track = MaskTrack.from_masks("t1", masks, times, [0.9] * len(clip), label="track-1", caption="it")
    size = (clip.width, clip.height, len(clip))
    return Result(str(case.video), clip.fps, *size, case.instruction, "it", "test", [track])


def test_the_shapes_clip_asks_for_one_object_that_is_there(case: Any) -> None:
    clip = open_clip(case.video)
    assert case.truth.shape == (len(clip), clip.height, clip.width)
    assert case.truth.any(axis=(1, 2)).sum() > 5
    assert case.instruction


def test_the_score_tells_a_perfect_track_from_one_beside_it(case: Any, tmp_path: Path) -> None:
    perfect = DEMO["write"](case, result_of(case, list(case.truth)), tmp_path)
    assert perfect.jf == pytest.approx(1.0)
    assert {path.name for path in tmp_path.iterdir()} == {"overlay.mp4", "sheet.png", "tracks.json"}
    beside = [np.roll(mask, 80, axis=1) for mask in case.truth]
    assert DEMO["write"](case, result_of(case, beside), tmp_path).jf < 0.5
