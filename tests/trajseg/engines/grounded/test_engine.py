"""`grounded` end to end: real classes with random weights, and scripted decisions of a chooser."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from tests.trajseg.engines.grounded import checkpoints
from tests.trajseg.engines.grounded.scenes import FRAMES, FakeDetector, moving, write
from trajseg.engines.base import RunContext
from trajseg.engines.grounded import factory
from trajseg.engines.grounded.dialogue import Question
from trajseg.engines.grounded.engine import DOUBT, GroundedEngine
from trajseg.engines.grounded.sam2 import load_sam2
from trajseg.engines.grounded.settings import GroundedSettings
from trajseg.engines.registry import load_engine
from trajseg.errors import CheckpointError, InstructionError
from trajseg.model.promptable import PromptableSam2
from trajseg.tracks.mark import Mark
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import Clip, open_clip

SMALL: dict[str, Any] = {
    "frames": 2,
    "longest": 64,
    "portrait": 32,
    "every": 1.0,
    "looks": 2,
    "threshold": 0.0,
    "certain": 0.0,
    "candidates": 3,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.save_grounded(tmp_path_factory.mktemp("grounded"))


def loaded(checkpoint: Path, **options: Any) -> GroundedEngine:
    engine = factory(device="cpu", checkpoint=str(checkpoint), **SMALL, **options)
    assert isinstance(engine, GroundedEngine)
    return engine


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> GroundedEngine:
    return loaded(checkpoint)


@pytest.fixture(scope="module")
def clip(tiny_clip: Any) -> Clip:
    return open_clip(tiny_clip.path)


@pytest.fixture(scope="module")
def sam2() -> PromptableSam2:
    return load_sam2(Path(__file__).parents[4] / "trajseg" / "checkpoints" / "trajseg-tiny")


class ScriptedChooser:
    """A fake: answers its script, one JSON value after the other, and keeps the questions."""

    family = "qwen3_vl"

    def __init__(self, *script: dict[str, Any]) -> None:
        self.script = list(script)
        self.asked: list[Question] = []

    def answer(self, question: Question) -> str:
        self.asked.append(question)
        answer = json.dumps(self.script.pop(0))
        assert question.grammar.is_whole(answer)
        return answer


def scripted(
    sam2: PromptableSam2, folder: Path, *script: dict[str, Any], blind: Sequence[int] = ()
) -> tuple[GroundedEngine, Clip, np.ndarray]:
    """A red circle that moves right and a blue square that moves left, found by a fake detector."""
    clip, ids = write(
        folder / "clip.mp4",
        [moving("red", "circle", (0.3, 0.3), (0.9, 0.3)), moving("blue", "square", (1.0, 0.7), (0.4, 0.7))],
    )
    settings = GroundedSettings(looks=8, frames=2)
    return GroundedEngine(FakeDetector(ids, 3, blind), sam2, ScriptedChooser(*script), settings), clip, ids


def test_random_weights_give_a_complete_segmentation(engine: GroundedEngine, clip: Clip) -> None:
    calls: list[tuple[int, int]] = []
    segmentation = engine.segment(clip, "the red square", RunContext(progress=lambda *call: calls.append(call)))
    assert [frame.index for frame in segmentation] == list(range(len(clip)) if segmentation.objects else [])
    result = segmentation.result()
    assert result.answer.startswith("Looked for: ")
    assert result.model_version == engine.spec.model_version
    assert all(done <= total for done, total in calls)
    assert set(result.timings) >= {"concepts", "candidates", "choosing"}


def test_without_a_chooser_everything_that_is_found_counts(checkpoint: Path, clip: Clip) -> None:
    engine = loaded(checkpoint, chooser="none")
    found = engine.find(clip, "The red square.")
    assert found.phrases == ("red square",)
    assert 0 < len(found.candidates) <= 3
    segmentation = engine.segmentation(clip, found)
    assert len(segmentation.objects) == len(found.candidates)
    assert {thing.caption for thing in segmentation.objects} == {"red square"}
    assert [frame.index for frame in segmentation] == list(range(len(clip)))
    with pytest.raises(InstructionError, match="names nothing"):
        engine.find(clip, "the ...")
    with pytest.raises(CheckpointError, match="no chooser"):
        engine.caption(clip, [])


def test_second_run_skips_finished_frames(checkpoint: Path, clip: Clip) -> None:
    engine = loaded(checkpoint, chooser="none")
    whole = list(engine.segment(clip, "square"))
    resumed = engine.segment(clip, "square", RunContext(done=whole[:7]))
    assert [frame.index for frame in resumed] == list(range(7, len(clip)))
    assert [track.to_json() for track in resumed.result().tracks] == [
        track.to_json() for track in engine.segment(clip, "square").result().tracks
    ]


def test_accepted_candidate_becomes_a_track_with_its_description(sam2: PromptableSam2, tmp_path: Path) -> None:
    verdicts = {"1": "a red circle: accept", "2": "a blue square: reject"}
    engine, clip, ids = scripted(sam2, tmp_path, {"phrases": ["circle", "Square."]}, verdicts)
    result = engine.segment(clip, "the circle that moves right").result()
    [track] = result.tracks
    assert (track.uid, track.label, track.caption) == ("t1", "track-1", "a red circle")
    assert np.mean([region_similarity(track.mask(i), ids[i] == 1) for i in range(FRAMES)]) > 0.8
    assert "Looked for: circle, square." in result.answer
    assert "2. a blue square (0.80), frames 0 to 23: rejected." in result.answer
    assert json.dumps(verdicts) in result.answer


def test_nothing_accepted_is_no_object(sam2: PromptableSam2, tmp_path: Path) -> None:
    verdicts = {"1": "a red circle: reject", "2": "a blue square: reject"}
    engine, clip, _ = scripted(sam2, tmp_path, {"phrases": ["star"]}, verdicts)
    segmentation = engine.segment(clip, "the star")
    assert segmentation.objects == ()
    assert list(segmentation) == []
    assert segmentation.result().tracks == []


def test_if_the_detector_finds_nothing_the_chooser_s_own_boxes_are_used(sam2: PromptableSam2, tmp_path: Path) -> None:
    """The boxes are around the circle, in thousandths of 160 x 120 pixels, on the frames shown."""
    middles = [0.3 + 0.6 * index / (FRAMES - 1) for index in range(0, FRAMES, 6)]
    boxes = [[round(1000 * (x - 0.16) * 0.75), 140, round(1000 * (x + 0.16) * 0.75), 460] for x in middles]
    script: list[dict[str, Any]] = [
        {"phrases": ["ball"]},
        *({"boxes": [box]} for box in boxes),
        {"1": "a red circle: accept"},
    ]
    engine, clip, ids = scripted(sam2, tmp_path, *script, blind=range(99))
    result = engine.segment(clip, "the circle that moves right").result()
    [track] = result.tracks
    assert np.mean([region_similarity(track.mask(i), ids[i] == 1) for i in range(FRAMES)]) > 0.8
    assert "The detector found nothing: the candidates are from the chooser's own boxes." in result.answer
    assert json.dumps({"boxes": [boxes[0]]}) in result.answer


def test_no_boxes_from_a_model_of_an_unknown_family_or_if_turned_off(sam2: PromptableSam2, tmp_path: Path) -> None:
    for family, count in (("some-vlm", 4), ("qwen3_vl", 0)):
        engine, clip, _ = scripted(sam2, tmp_path, {"phrases": ["ball"]}, blind=range(99))
        assert isinstance(engine.chooser, ScriptedChooser)
        engine.chooser.family, engine.settings = family, GroundedSettings(boxes=count)
        result = engine.segment(clip, "the ball").result()
        assert result.tracks == []
        assert "Nothing of the kind was found." in result.answer


def test_several_accepted_candidates_become_several_tracks(sam2: PromptableSam2, tmp_path: Path) -> None:
    verdicts = {"1": "a red circle: accept", "2": "a blue square: accept"}
    engine, clip, _ = scripted(sam2, tmp_path, {"phrases": ["object"]}, verdicts)
    assert [track.caption for track in engine.segment(clip, "all objects").result().tracks] == [
        "a red circle",
        "a blue square",
    ]


def test_doubtful_object_is_kept_with_half_the_score(sam2: PromptableSam2, tmp_path: Path) -> None:
    first = {"1": "a red circle: accept", "2": "a square: doubtful"}
    engine, clip, _ = scripted(sam2, tmp_path, {"phrases": ["object"]}, first, {"1": "a square: doubtful"})
    found = engine.find(clip, "what moves")
    assert found.weights == {0: 1.0, 1: DOUBT}
    sure, unsure = engine.segmentation(clip, found).result().tracks
    candidate = found.candidates[1]
    whole = fmean(candidate.frames[index].score for index in candidate.shown)
    assert unsure.score == pytest.approx(DOUBT * whole, abs=0.02)
    assert sure.score > 0.8
    assert "doubtful, please check" in found.answer()


def test_the_chooser_sees_outlined_frames_portraits_and_facts(sam2: PromptableSam2, tmp_path: Path) -> None:
    verdicts = {"1": "x: reject", "2": "x: reject"}
    engine, clip, _ = scripted(sam2, tmp_path, {"phrases": ["object"]}, verdicts)
    engine.find(clip, "the square")
    assert isinstance(engine.chooser, ScriptedChooser)
    question = engine.chooser.asked[1]
    pictures = [part for part in question.parts if not isinstance(part, str)]
    assert len(pictures) == 2 * 2 + 2
    clean, outlined = pictures[:2]
    assert clean.shape == (120, 160, 3)
    assert np.abs(clean.astype(int) - outlined).sum() > 0
    assert re.search(r"moved (50|55) right 0", "".join(part for part in question.parts if isinstance(part, str)))


def test_captions_of_tracks_drawn_by_a_person(sam2: PromptableSam2, tmp_path: Path) -> None:
    accepted = {"1": "a: accept", "2": "b: accept"}
    captions = [{"caption": "the first"}, {"caption": "the second"}]
    engine, clip, _ = scripted(sam2, tmp_path, {"phrases": ["object"]}, accepted, *captions)
    tracks = engine.segment(clip, "everything").result().tracks
    calls: list[tuple[int, int]] = []
    assert engine.caption(clip, tracks, lambda *call: calls.append(call)) == ["the first", "the second"]
    assert calls == [(1, 2), (2, 2)]


def test_marked_object_is_segmented_and_propagated(sam2: PromptableSam2, tmp_path: Path) -> None:
    engine, clip, ids = scripted(sam2, tmp_path)
    truth = ids == 1
    rows, columns = np.nonzero(truth[4])
    box = (float(columns.min()), float(rows.min()), float(np.ptp(columns) + 1), float(np.ptp(rows) + 1))
    mask = engine.mark(clip, Mark(4, box), "")
    assert region_similarity(mask, truth[4]) > 0.8
    drawn = list(engine.propagator().propagate(clip, {4: mask}, frames=range(3, 10)))
    assert np.mean([region_similarity(one.mask, truth[one.index]) for one in drawn]) > 0.7


def test_loading_prints_nothing(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_engine("grounded", "cpu", checkpoint=str(checkpoint), **SMALL)
    assert capfd.readouterr() == ("", "")
