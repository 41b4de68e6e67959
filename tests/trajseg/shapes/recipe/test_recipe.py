"""The recipe of trajseg-tiny, from scratch to a checkpoint that segments, with a few steps per stage."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.tiny_clip import TinyClip
from trajseg.shapes.recipe import pixels
from trajseg.shapes.recipe.command import command


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_stage_runs_and_the_checkpoint_answers(
    tmp_path: Path, tiny_clip: TinyClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "FITTED_CLIPS", 10)
    monkeypatch.setattr(pixels, "FITTED_BATCHES", 1)
    monkeypatch.setattr(pixels, "FITTING_STEPS", 20)
    run = CliRunner()
    arguments = ["--out", str(tmp_path / "run"), "--workers", "0"]

    early = run.invoke(command, [*arguments, "--stage", "masks", "--steps", "1"])
    assert early.exit_code != 0
    assert "Stage vision has no result" in str(early.exception)

    done = run.invoke(command, [*arguments, "--steps", "2"])
    assert done.exit_code == 0, (done.output, done.exception)

    from trajseg import VideoSegmenter

    segmenter = VideoSegmenter.from_pretrained(tmp_path / "run" / "checkpoint", device="cpu")
    result = segmenter.segment(tiny_clip.path, "the red square").result()
    assert result.model_version == "trajseg-tiny"
    assert result.frame_count == 12
    assert all(len(track.frames) == 12 for track in result.tracks)
