"""Points become tracks with the shipped SAM 2, on clips built for difficult cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.trajseg.engines.grounded.checkpoints import save_sam2
from tests.trajseg.engines.grounded.scenes import FRAMES, moving, write
from trajseg.engines.grounded.candidates import Candidate
from trajseg.engines.grounded.sam2 import load_sam2
from trajseg.engines.molmo2.answers import PointTrack
from trajseg.engines.molmo2.search import PointSearch
from trajseg.errors import CancelledError
from trajseg.model.promptable import PromptableSam2
from trajseg.tracks import rle
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import Clip

STEP = 6


@pytest.fixture(scope="module")
def sam2() -> PromptableSam2:
    return load_sam2(Path(__file__).parents[4] / "trajseg" / "checkpoints" / "trajseg-tiny")


@pytest.fixture(scope="module")
def crossing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, np.ndarray]:
    """A red circle and a blue square that pass each other in different rows; the square enters on frame 8."""
    objects = [
        moving("red", "circle", (0.3, 0.3), (0.9, 0.3)),
        moving("blue", "square", (1.0, 0.7), (0.4, 0.7), first=8),
    ]
    return write(tmp_path_factory.mktemp("crossing") / "clip.mp4", objects)


def middle(ids: np.ndarray, number: int, index: int) -> tuple[float, float]:
    rows, columns = np.nonzero(ids[index] == number)
    return float(columns.mean()), float(rows.mean())


def likeness(candidate: Candidate, truth: np.ndarray) -> float:
    empty = np.zeros(truth.shape[1:], bool)
    drawn = [empty if frame.rle is None else rle.decode(frame.rle) for frame in candidate.frames]
    return float(np.mean([region_similarity(a, b) for a, b in zip(drawn, truth, strict=True) if a.any() or b.any()]))


def test_each_number_is_one_track_and_starts_where_it_is_pointed_at(
    sam2: PromptableSam2, crossing: tuple[Clip, np.ndarray]
) -> None:
    clip, ids = crossing
    red = PointTrack(4, {index: middle(ids, 1, index) for index in range(0, FRAMES, STEP)})
    blue = PointTrack(7, {index: middle(ids, 2, index) for index in range(12, FRAMES, STEP)})
    steps: list[int] = []
    found = PointSearch(sam2).find(clip, [blue, red], "things", lambda done, total: steps.append(done))
    assert [candidate.start for candidate in found] == [12, 0]
    # First seen on frame 12, it is tracked back to where it entered.
    assert likeness(found[0], ids == 2) > 0.7
    assert likeness(found[1], ids == 1) > 0.8
    assert found[1].sightings == FRAMES // STEP
    assert steps[:FRAMES] == list(range(FRAMES))
    assert {candidate.phrase for candidate in found} == {"things"}


def test_a_point_elsewhere_draws_the_object_again(sam2: PromptableSam2, crossing: tuple[Clip, np.ndarray]) -> None:
    clip, ids = crossing
    # The number starts on the circle; from frame 12 on it is at the square.
    points = {0: middle(ids, 1, 0), 12: middle(ids, 2, 12), 18: middle(ids, 2, 18)}
    [found] = PointSearch(sam2).find(clip, [PointTrack(1, points)], "thing")
    for index in range(13, FRAMES):
        code = found.frames[index].rle
        assert code is not None
        assert region_similarity(rle.decode(code), ids[index] == 2) > 0.6


@pytest.fixture(scope="module")
def random_sam2(tmp_path_factory: pytest.TempPathFactory) -> PromptableSam2:
    """Random weights, which draw the same mask for every point."""
    return load_sam2(save_sam2(tmp_path_factory.mktemp("sam2")))


def test_two_numbers_on_one_object_are_one_track(
    random_sam2: PromptableSam2, crossing: tuple[Clip, np.ndarray]
) -> None:
    tracks = [PointTrack(1, {0: (5.0, 5.0)}), PointTrack(2, {12: (90.0, 60.0)})]
    [found] = PointSearch(random_sam2).find(crossing[0], tracks, "thing")
    assert found.start == 0
    assert found.sightings == 2


def test_progress_can_stop_it(random_sam2: PromptableSam2, crossing: tuple[Clip, np.ndarray]) -> None:
    def cancel(done: int, total: int) -> None:
        raise CancelledError("Cancelled by the test.")

    with pytest.raises(CancelledError):
        PointSearch(random_sam2).find(crossing[0], [PointTrack(1, {0: (5.0, 5.0)})], "thing", cancel)
