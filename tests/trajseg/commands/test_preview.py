"""`trajseg preview` and `trajseg compare` through the command line, with scripted engines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from trajseg.cli import main
from trajseg.engines.base import EngineSpec, FrameMasks, ObjectMask
from trajseg.errors import InputError
from trajseg.evaluation.comparison import compare
from trajseg.evaluation.preview import duration
from trajseg.tracks import Result
from trajseg.video import Clip, open_clip
from trajseg.video.sampled_clip import sampled_clip


@pytest.fixture
def run(scripted_engine: Any) -> Any:
    """Run `trajseg ...`: the engine "late" is the scripted one, but overlooks everything before frame 6."""

    class Late(type(scripted_engine)):  # type: ignore[misc]
        spec = EngineSpec(name="late", model_version="late", several=True, none=True)

        def frames(self, clip: Clip, colours: Sequence[str], done: set[int]) -> Iterator[FrameMasks]:
            for frame in super().frames(clip, colours, done):
                hidden = {uid: ObjectMask(None, 0.2) for uid in frame.masks}
                yield FrameMasks(frame.index, hidden) if frame.index < 6 else frame

    def call(*arguments: object) -> Any:
        engines = {"late": Late()}
        loader = lambda name, device: engines.get(name, scripted_engine)  # noqa: E731
        return CliRunner().invoke(main, [str(argument) for argument in arguments], obj=loader)

    return call


def test_a_preview_draws_five_frames_and_estimates_the_lot(run: Any, tiny_clip: Any, tmp_path: Path) -> None:
    outcome = run("preview", tiny_clip.path, "the red and the blue", "--videos", 300, "--out", tmp_path / "p.png")
    assert outcome.exit_code == 0, outcome.output
    assert outcome.stderr == ""
    lines = outcome.output.splitlines()
    assert "red, blue" in lines
    assert "track-1: something red (score 0.90), in frames 1, 4, 7, 9, 12" in lines
    assert "track-2: something blue (score 0.90), in frames 1, 4, 7" in lines
    assert "scripted: 5 frames in " in outcome.output
    assert "For 300 videos like this (3600 frames): about " in outcome.output
    with Image.open(tmp_path / "p.png") as sheet:
        assert sheet.width > 700


def test_a_preview_says_that_there_is_none(run: Any, tiny_clip: Any, tmp_path: Path) -> None:
    outcome = run("preview", tiny_clip.path, "the yellow one", "--out", tmp_path / "p.png")
    assert outcome.exit_code == 0, outcome.output
    assert "No such object: no tracks." in outcome.output


@pytest.mark.parametrize("command", [["preview"], ["compare", "--engines", "a,late", "--out", "x"]])
def test_a_video_or_sentence_that_cannot_be_is_refused(command: list[str], run: Any, tiny_clip: Any) -> None:
    assert run(*command, tiny_clip.path, " ").exit_code == 2
    assert run(*command, "missing.mp4", "the red one").exit_code == 2


@pytest.mark.parametrize(("seconds", "words"), [(3.2, "3 s"), (600, "10 minutes"), (9000, "2.5 hours")])
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_sampled_clip_has_the_pictures_and_times_of_its_frames(tiny_clip: Any) -> None:
    clip = open_clip(tiny_clip.path)
    few = sampled_clip(clip, [9, 0, 4])
    assert (len(few), few.indices) == (3, (0, 4, 9))
    assert few.frame_map.times == tuple(clip.frame_map.times[index] for index in (0, 4, 9))
    assert open_clip(few) is few
    (_, picture), (_, original) = next(few.frames([1])), next(clip.frames([4]))
    assert (picture == original).all()


def test_two_engines_are_compared_frame_by_frame(run: Any, tiny_clip: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = run("compare", tiny_clip.path, "the red and the blue", "--engines", "a,late", "--out", out)
    assert outcome.exit_code == 0, outcome.output
    assert sorted(path.name for path in out.iterdir()) == [
        "comparison.json",
        "comparison.png",
        "tracks-1.json",
        "tracks-2.json",
    ]
    report = json.loads((out / "comparison.json").read_text())
    assert report["engines"] == ["scripted", "late"]
    assert report["agreement"] == [0.0] * 6 + [1.0] * 6
    assert report["mean_agreement"] == 0.5
    assert report["disagreement_first"] == [0, 2, 4]
    assert [(pair["first"], pair["second"]) for pair in report["tracks"]] == [
        ("track-1", "track-1"),
        ("track-2", "track-2"),
    ]
    assert report["tracks"][0]["iou"] == pytest.approx(0.5, abs=0.01)
    assert "Agreement over 12 frames: 0.500" in outcome.output
    assert "Lowest agreement on frames: 1 (0.00), 3 (0.00), 5 (0.00)" in outcome.output


def test_engines_that_agree_leave_nothing_to_look_at(run: Any, tiny_clip: Any, tmp_path: Path) -> None:
    outcome = run("compare", tiny_clip.path, "the red one", "--engines", "a,b", "--out", tmp_path)
    assert outcome.exit_code == 0, outcome.output
    assert "Agreement over 12 frames: 1.000" in outcome.output
    assert "Lowest" not in outcome.output


@pytest.mark.parametrize("engines", ["a", "a,b,c", "a,", ","])
def test_other_than_two_engines_are_refused(engines: str, run: Any, tiny_clip: Any, tmp_path: Path) -> None:
    outcome = run("compare", tiny_clip.path, "red", "--engines", engines, "--out", tmp_path)
    assert outcome.exit_code == 2
    assert "two names" in outcome.output


def test_objects_that_only_one_engine_has_stand_alone(scripted_engine: Any, tiny_clip: Any) -> None:
    both = scripted_engine.segment(tiny_clip.path, "red and blue").result()
    blue = scripted_engine.segment(tiny_clip.path, "blue").result()
    pairs = [(pair.first, pair.second) for pair in compare(both, blue).pairs]
    assert pairs == [("track-2", "track-1"), ("track-1", None)]
    none = scripted_engine.segment(tiny_clip.path, "nothing").result()
    assert compare(none, none).mean == 1.0
    assert compare(none, blue).pairs[0].first is None


def test_results_of_other_clips_are_not_compared(scripted_engine: Any, tiny_clip: Any) -> None:
    result = scripted_engine.segment(tiny_clip.path, "red").result()
    other = Result("v", 12.0, 96, 64, 11, "red", "", "m", [])
    with pytest.raises(InputError, match="12 frames of 96x64 and 11 of 96x64"):
        compare(result, other)
