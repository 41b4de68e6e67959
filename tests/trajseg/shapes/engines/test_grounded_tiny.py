"""The trained detector and chooser with the shipped SAM 2: phrases and sentences about the shapes world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.trajseg.engines.grounded.scenes import moving, write
from trajseg.engines.grounded import factory
from trajseg.engines.grounded.engine import GroundedEngine
from trajseg.tracks import rle
from trajseg.tracks.region_similarity import region_similarity

pytestmark = pytest.mark.slow
CHECKPOINT = Path(__file__).parents[4] / "trajseg" / "shapes" / "engines" / "grounded-tiny"


@pytest.fixture(scope="module")
def engine() -> GroundedEngine:
    found = factory(device="cpu", checkpoint=str(CHECKPOINT), chooser="none")
    assert isinstance(found, GroundedEngine)
    return found


def test_a_phrase_finds_its_object_first(engine: GroundedEngine, tmp_path: Path) -> None:
    clip, ids = write(
        tmp_path / "clip.mp4",
        [moving("red", "circle", (0.3, 0.3), (0.9, 0.3)), moving("blue", "square", (1.0, 0.7), (0.4, 0.7))],
    )
    for phrase, k in (("the circle", 1), ("the blue square", 2)):
        candidates = engine.find(clip, phrase).candidates
        best = max(candidates, key=lambda one: one.score)
        masks = [np.zeros(ids.shape[1:], bool) if one.rle is None else rle.decode(one.rle) for one in best.frames]
        assert np.mean([region_similarity(mask, plane == k) for mask, plane in zip(masks, ids, strict=True)]) > 0.8
    assert len(engine.find(clip, "object").candidates) == 2
    assert engine.segment(clip, "the star").result().tracks == []


def test_trained_chooser_chooses_by_motion_and_rejects_absent_objects(tmp_path: Path) -> None:
    chosen = factory(device="cpu", checkpoint=str(CHECKPOINT))
    assert chosen.spec.sentences
    clip, ids = write(
        tmp_path / "clip.mp4",
        [moving("red", "circle", (0.3, 0.3), (0.9, 0.3)), moving("blue", "square", (1.0, 0.7), (0.4, 0.7))],
    )
    result = chosen.segment(clip, "the object moving right").result()
    [track] = result.tracks
    assert "red circle moving right" in track.caption
    assert np.mean([region_similarity(track.mask(index), ids[index] == 1) for index in range(len(ids))]) > 0.8
    assert chosen.segment(clip, "the large blue circle").result().tracks == []
