"""Evaluation of learning from corrections: simulated projects, harmful labels, and gains."""

from __future__ import annotations

import json
import random
import runpy
from argparse import Namespace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from trajseg.data.corrections import Corrections
from trajseg.data.registry import DatasetOptions, open_dataset
from trajseg.data.sides import SIDES, side_of
from trajseg.errors import InputError
from trajseg.shapes.evaluation.annotator import PAINTED_FRAMES, as_video, by_side, correct, relabelled
from trajseg.shapes.evaluation.learning import (
    RESULT,
    LearningResult,
    LearningRun,
    LearningSettings,
    keep_settings,
    learn,
    share_done,
    standard_error,
    summary,
    videos_of,
)
from trajseg.tracks import rle
from trajseg.training.child import PROGRESS

SCRIPT = Path(__file__).parents[4] / "scripts" / "proof_learning.py"
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


def test_a_gain_comes_with_its_standard_error_paired_by_clip() -> None:
    scores = {"fresh": {"a": 0.5, "b": 0.9}, "test": {"c": 0.9}}
    assert standard_error(scores, SERVED, "fresh") == pytest.approx(0.1)
    assert np.isnan(standard_error(scores, SERVED, "test"))


@pytest.mark.parametrize(("videos", "held_out"), [(5, 3), (10, 5), (20, 10), (40, 14), (100, 26)])
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


def test_a_folder_of_an_earlier_release_has_its_style(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(
        '{"checkpoint": "trajseg-tiny", "fresh": 24, "test": 24, "height": 160, "steps": null}'
    )
    keep_settings(LearningSettings(), tmp_path)
    with pytest.raises(InputError, match="has runs with other values of style, unseen"):
        keep_settings(LearningSettings(style="shapes:train", unseen="shapes:val"), tmp_path)


@pytest.mark.parametrize(
    ("style", "unseen", "expected"),
    [
        (None, None, ("posters:train", "posters:val")),
        ("mine:a", None, ("mine:a", "mine:a")),
        ("mine:a", "mine:b", ("mine:a", "mine:b")),
    ],
)
def test_the_proof_takes_any_data_set_as_its_style(
    style: str | None, unseen: str | None, expected: tuple[str, str]
) -> None:
    given = Namespace(model="trajseg-tiny", fresh=24, test=24, steps=None, full=True, style=style, unseen=unseen)
    settings = runpy.run_path(str(SCRIPT))["settings_of"](given)
    assert (settings.style, settings.unseen) == expected


@pytest.mark.parametrize(
    ("steps", "fresh", "full", "expected"),
    [
        (None, None, False, (120, 12)),
        (None, None, True, (None, 24)),
        (7, 5, False, (7, 5)),
        (7, 5, True, (7, 5)),
    ],
)
def test_the_full_form_trains_and_measures_more_than_the_quick_one(
    steps: int | None, fresh: int | None, full: bool, expected: tuple[int | None, int]
) -> None:
    given = Namespace(model="trajseg-tiny", fresh=fresh, test=24, steps=steps, full=full, style=None, unseen=None)
    settings = runpy.run_path(str(SCRIPT))["settings_of"](given)
    assert (settings.steps, settings.fresh) == expected


def test_the_usual_style_is_that_of_the_published_figures() -> None:
    sets = LearningSettings(fresh=1, test=1, height=64).sets()
    assert {what: (one.name, one[0].name) for what, one in sets.items()} == {
        "fresh": ("posters:val", "val-020000"),
        "test": ("shapes:test", "test-030000"),
    }


def write_pictures(root: Path, videos: int, width: int = 64, annotated: range = range(8)) -> str:
    """Folders of pictures with a moving square, in the layout of Ref-YouTube-VOS; returns the name in --data."""
    rng = np.random.default_rng(0)
    listed: dict[str, object] = {}
    frames = [f"{index:05d}" for index in range(8)]
    for number in range(videos):
        for kind in ("JPEGImages", "Annotations"):
            (root / "own" / kind / f"v{number}").mkdir(parents=True)
        backdrop = rng.integers(0, 120, (6, 8, 3), np.uint8).repeat(8, 0).repeat(9, 1)[:48, :width]
        for index, frame in enumerate(frames):
            ids = np.zeros((48, width), np.uint8)
            ids[16:32, 4 + 4 * index : 20 + 4 * index] = 1
            drawn = np.where(ids[..., None] == 1, np.array([220, 30, 30], np.uint8), backdrop)
            Image.fromarray(drawn).save(root / "own" / "JPEGImages" / f"v{number}" / f"{frame}.jpg", quality=95)
            if index in annotated:
                Image.fromarray(ids).save(root / "own" / "Annotations" / f"v{number}" / f"{frame}.png")
        listed[f"v{number}"] = {"frames": frames, "expressions": {"0": {"exp": "the red square", "obj_id": "1"}}}
    (root / "meta_expressions" / "own").mkdir(parents=True)
    (root / "meta_expressions" / "own" / "meta_expressions.json").write_text(json.dumps({"videos": listed}))
    return f"ref-youtube-vos:{root / 'own'}"


def test_one_folder_of_pictures_gives_a_project_and_other_unseen_clips(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", 30)
    settings = LearningSettings(fresh=4, style=data, unseen=data)
    clips = videos_of(LearningRun("gain", 5, 0), settings)
    unseen = settings.sets()["fresh"]
    assert len(clips) == 5
    assert not {clip.name for clip in clips} & {unseen[number].name for number in range(len(unseen))}
    folder = correct(clips, tmp_path / "corrections")
    sides = Corrections(folder, "train"), Corrections(folder, "held-out")
    assert [len(side) for side in sides] == [2, 3]
    trained = sides[0][0]
    assert trained.clip.path.suffix == ".mp4"
    assert [asked.text for asked in trained.expressions] == ["the red square"]
    assert len(trained.scored) == len(trained.clip) == 8

    with pytest.raises(InputError, match=r"has too few clips for this project: it lacks .* more (train|held-out)"):
        videos_of(LearningRun("gain", 40, 0), settings)


def test_a_large_project_is_split_as_one_that_grew(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", 60)
    settings = LearningSettings(fresh=1, style=data, unseen=data)
    folder = correct(videos_of(LearningRun("gain", 26, 0), settings), tmp_path / "corrections")
    assert [len(Corrections(folder, side)) for side in SIDES] == [15, 11]
    clips = json.loads((folder / "manifest.json").read_text())["clips"]
    assert [clip["side"] for clip in clips] == [side_of(clip["identity"], place) for place, clip in enumerate(clips)]
    assert any(side_of(clip["identity"]) != clip["side"] for clip in clips), "the hash alone would hold out more"


def test_pictures_of_odd_width_become_a_video_with_masks_that_fit(tmp_path: Path) -> None:
    pictures = open_dataset(write_pictures(tmp_path, 1, width=63))[0]
    video = as_video(pictures)
    assert as_video(video) is video
    assert (video.clip.width, video.clip.height, len(video.clip)) == (64, 48, 8)
    drawn, before = video.masks(["1"], [0, 7]), pictures.masks(["1"], [0, 7])
    np.testing.assert_array_equal(drawn[..., :63], before)
    path = video.clip.path
    del video
    assert not path.exists()


def test_the_annotator_paints_only_frames_whose_masks_are_known(tmp_path: Path) -> None:
    dataset = open_dataset(write_pictures(tmp_path / "data", 12, annotated=range(0, 8, 3)))
    folder = correct(by_side(dataset, {"held-out": 1}), tmp_path / "corrections")
    held_out = Corrections(folder, "held-out")[0]
    assert list(held_out.scored) == [0, 3, 6]
    assert len(held_out.scored) < PAINTED_FRAMES
    assert held_out.masks(["1"], held_out.scored).any(axis=(2, 3)).all(), "none is said to be absent"


@pytest.mark.slow
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


@pytest.mark.slow
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
