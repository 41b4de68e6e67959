"""Candidate search with the shipped SAM 2, on clips built for the usual failures of such pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.trajseg.engines.grounded.scenes import FRAMES, FakeDetector, moving, write
from trajseg.engines.grounded.candidates import Candidate
from trajseg.engines.grounded.sam2 import load_sam2
from trajseg.engines.grounded.search import CandidateSearch, SearchSettings
from trajseg.errors import CancelledError
from trajseg.model.promptable import PromptableSam2
from trajseg.shapes.world.scenes import SceneObject
from trajseg.tracks import rle
from trajseg.tracks.region_similarity import region_similarity

STEP = 3


@pytest.fixture(scope="module")
def sam2() -> PromptableSam2:
    return load_sam2(Path(__file__).parents[4] / "trajseg" / "checkpoints" / "trajseg-tiny")


def search(
    sam2: PromptableSam2, folder: Path, objects: Sequence[SceneObject], blind: Sequence[int] = ()
) -> tuple[list[Candidate], np.ndarray]:
    clip, ids = write(folder / "clip.mp4", objects)
    finder = CandidateSearch(FakeDetector(ids, STEP, blind), sam2, SearchSettings(looks=8))
    assert finder.detection_step(clip) == STEP
    return finder.find(clip, ["object"]), ids


def likeness(candidate: Candidate, truth: np.ndarray) -> float:
    """Mean J over the frames that show either."""
    empty = np.zeros(truth.shape[1:], bool)
    pairs = [
        (empty if frame.rle is None else rle.decode(frame.rle), plane)
        for frame, plane in zip(candidate.frames, truth, strict=True)
    ]
    return float(np.mean([region_similarity(a, b) for a, b in pairs if a.any() or b.any()]))


def test_each_object_is_one_candidate_over_the_whole_clip(sam2: PromptableSam2, tmp_path: Path) -> None:
    found, ids = search(
        sam2,
        tmp_path,
        [moving("red", "circle", (0.3, 0.3), (0.9, 0.3)), moving("blue", "square", (1.0, 0.7), (0.4, 0.7))],
    )
    assert len(found) == 2
    assert [round(likeness(one, ids == k), 1) >= 0.8 for k, one in enumerate(found, 1)] == [True, True]
    assert all(one.sightings == FRAMES // STEP for one in found)


def test_look_alikes_that_cross_keep_their_identity(sam2: PromptableSam2, tmp_path: Path) -> None:
    found, ids = search(
        sam2,
        tmp_path,
        [
            moving("red", "circle", (0.2, 0.5), (1.13, 0.5), depth=1),
            moving("red", "circle", (1.13, 0.52), (0.2, 0.52), depth=0),
        ],
    )
    assert len(found) == 2
    assert likeness(found[0], ids == 1) > 0.7
    assert likeness(found[1], ids == 2) > 0.6


@pytest.mark.slow
def test_late_object_does_not_change_the_others_identity(sam2: PromptableSam2, tmp_path: Path) -> None:
    found, ids = search(
        sam2,
        tmp_path,
        [
            moving("green", "square", (0.3, 0.5), (0.5, 0.5)),
            moving("yellow", "triangle", (1.0, 0.5), (0.9, 0.5), first=10),
        ],
    )
    assert len(found) == 2
    assert likeness(found[0], ids == 1) > 0.8
    assert likeness(found[1], ids == 2) > 0.7
    assert min(found[1].shown) >= 8


def test_object_first_missed_by_the_detector_is_tracked_back_to_the_start(sam2: PromptableSam2, tmp_path: Path) -> None:
    found, ids = search(sam2, tmp_path, [moving("red", "circle", (0.3, 0.5), (1.0, 0.5))], blind=(0, 1, 2, 3))
    assert len(found) == 1
    assert found[0].shown[0] == 0
    assert likeness(found[0], ids == 1) > 0.8


def test_an_object_that_leaves_is_gone(sam2: PromptableSam2, tmp_path: Path) -> None:
    found, _ = search(sam2, tmp_path, [moving("blue", "square", (0.7, 0.5), (0.7, 0.5), last=9)])
    assert found[0].shown[-1] <= 11


def test_no_detections_no_candidates(sam2: PromptableSam2, tmp_path: Path) -> None:
    found, _ = search(sam2, tmp_path, [moving("blue", "square", (0.7, 0.5), (0.7, 0.5))], blind=range(8))
    assert found == []


def test_progress_is_called_for_every_frame_and_can_end_the_search(sam2: PromptableSam2, tmp_path: Path) -> None:
    clip, ids = write(tmp_path / "clip.mp4", [moving("blue", "square", (0.7, 0.5), (0.7, 0.5))])
    calls: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        calls.append((done, total))
        if done == 5:
            raise CancelledError("enough")

    with pytest.raises(CancelledError):
        CandidateSearch(FakeDetector(ids, STEP), sam2).find(clip, ["object"], stop)
    assert calls == [(done, FRAMES) for done in range(6)]
