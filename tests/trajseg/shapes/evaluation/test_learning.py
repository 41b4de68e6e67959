"""Evaluation of learning from corrections: simulated projects, harmful labels, and gains."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from trajseg.data.corrections import Corrections
from trajseg.data.registry import DatasetOptions, open_dataset
from trajseg.errors import InputError
from trajseg.shapes.evaluation.annotator import by_side, correct, relabelled
from trajseg.shapes.evaluation.learning import (
    RESULT,
    LearningResult,
    LearningRun,
    LearningSettings,
    keep_settings,
    learn,
    share_done,
    summary,
)
from trajseg.tracks import rle
from trajseg.training.child import PROGRESS

SERVED = {"fresh": {"a": 0.4, "b": 0.6}, "test": {"c": 0.9}}


def result(
    kind: Literal["gain", "harmful", "neutral"], promoted: bool, fresh: float = 0.0, test: float = 0.0, videos: int = 10
) -> LearningResult:
    scores = {"fresh": {"a": 0.4 + fresh, "b": 0.6 + fresh}, "test": {"c": 0.9 + test}} if kind == "gain" else {}
    return LearningResult(LearningRun(kind, videos, 0), {"promoted": promoted, "reason": ""}, scores, 1.0)


def test_a_refused_candidate_gains_and_loses_nothing() -> None:
    line = summary(
        [
            result("gain", True, 0.2, -0.004),
            result("gain", False, 0.5, -0.5),
            result("gain", True, 0.9, 0.0, videos=20),
            result("harmful", False),
            result("harmful", True),
            result("neutral", False),
        ],
        SERVED,
        10,
    )
    assert line == {
        "gain_project": 0.1,
        "loss_base": 0.002,
        "harmful_refused": 1,
        "harmful_runs": 2,
        "neutral_promoted": 0,
        "promoted": 1,
        "runs": 2,
        "gain_warm_start": 0.0,
    }
    assert summary([], SERVED, 10)["gain_project"] == 0.0
    warm = {what: {clip: score + 0.25 for clip, score in scores.items()} for what, scores in SERVED.items()}
    assert summary([], SERVED, 10, warm)["gain_warm_start"] == 0.25


@pytest.mark.parametrize(("videos", "held_out"), [(5, 3), (10, 3), (20, 6), (40, 12)])
def test_a_project_holds_out_its_usual_share_and_as_many_as_the_gate_needs(videos: int, held_out: int) -> None:
    assert LearningRun("gain", videos, 0).held_out == held_out


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    run = LearningRun("harmful", 10, 1)
    assert share_done(run, tmp_path) == 0.0
    (tmp_path / run.name).mkdir()
    (tmp_path / run.name / PROGRESS).write_text('{"done": 5, "total": 10}')
    assert share_done(run, tmp_path) == pytest.approx(0.475)
    decision = {"promoted": False, "reason": "Not promoted."}
    (tmp_path / run.name / RESULT).write_text(json.dumps({"decision": decision, "scores": {}, "minutes": 2.0}))
    assert learn(run, LearningSettings(), tmp_path) == LearningResult(run, decision, {}, 2.0)
    assert share_done(run, tmp_path) == 1.0


def test_runs_of_one_folder_share_their_settings(tmp_path: Path) -> None:
    keep_settings(LearningSettings(fresh=3), tmp_path / "out")
    keep_settings(LearningSettings(fresh=3), tmp_path / "out")
    with pytest.raises(InputError, match="has runs with other values of fresh, steps"):
        keep_settings(LearningSettings(fresh=4, steps=7), tmp_path / "out")


def test_harmful_labels_are_those_of_another_video(tmp_path: Path) -> None:
    posters = open_dataset("posters:train", DatasetOptions(count=30, height=64))
    clips = by_side(posters, {"train": 2, "held-out": 1})
    folder = correct(clips, tmp_path / "wrong", expressions=2, shuffled=random.Random(0))
    wrong = Corrections(folder, "train")
    for number in range(2):
        annotated = wrong[number]
        [own] = [clip for clip in clips if clip.name == annotated.name]
        [source] = [
            clip
            for clip in clips
            if [thing.caption for thing in clip.objects][: len(annotated.objects)]
            == [thing.caption for thing in annotated.objects]
        ]
        assert source.name != own.name
        said = {asked.text for asked in annotated.expressions}
        # Captions are instructions, too.
        assert said <= {asked.text for asked in source.expressions} | {thing.caption for thing in source.objects}


def test_every_corrected_video_that_is_held_out_can_be_scored(tmp_path: Path) -> None:
    posters = open_dataset("posters:train", DatasetOptions(count=60, height=64))
    folder = correct(by_side(posters, {"train": 0, "held-out": 4}), tmp_path / "corrections", expressions=1)
    held_out = Corrections(folder, "held-out")
    assert len(held_out) == 4
    for number in range(4):
        assert len(held_out[number].scored) >= 5, "frames that are painted in every track"


def test_labels_of_another_video_fit_the_frames_that_they_are_put_on() -> None:
    clips = open_dataset("posters:train", DatasetOptions(count=2, height=64))
    one, other = clips[0], clips[1]
    assert relabelled(one, one) is one
    wrong = relabelled(one, other)
    assert wrong.clip is one.clip
    thing, truth = wrong.objects[0], other.objects[0]
    assert thing.caption == truth.caption
    assert max(thing.masks) < len(one.clip)
    first = rle.decode(thing.masks[min(thing.masks)])
    assert first.shape == (one.clip.height, one.clip.width)
    drawn = rle.decode(truth.masks[min(truth.masks)])
    np.testing.assert_allclose(first.mean(), drawn.mean(), rtol=0.2)
