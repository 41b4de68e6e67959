"""The recipe of trajseg-tiny: a step's loss depends on the step alone, so that a stage resumes exactly."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner

from trajseg.cli import main
from trajseg.training import pixels, stages
from trajseg.training.recipe import Stage
from trajseg.training.run import Part, Schedule
from trajseg.training.stages import TinyTraining


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    return TinyTraining(tmp_path_factory.mktemp("tiny"), seed=0, workers=0)


@pytest.mark.parametrize(
    "name",
    [
        "vision",
        "language",
        "masks",
        "memory",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("pixels", "captions")),
        "boxes",
    ],
)
def test_a_steps_loss_is_the_same_whatever_was_asked_for_before(training, name, monkeypatch):
    monkeypatch.setattr(stages, "WATCHED", 2)
    monkeypatch.setattr(stages, "SYMBOLIC", 2)
    for fitting in ("FITTED_CLIPS", "FITTED_BATCHES", "FITTING_STEPS"):
        monkeypatch.setattr(pixels, fitting, 1)
    stage = Stage(name, (), "", Schedule(steps=1), batch=1, frames=8 if name in ("pixels", "captions") else 2)
    module = training.module(name)
    loss, _ = getattr(training, f"_{name}")(stage, module)
    with torch.no_grad():
        values = [float(loss(Part(step))[0]) for step in (4, 0, 4)]
    assert values[0] == values[2] != values[1]


def test_the_mask_decoder_is_watched_once_however_often_its_module_is_asked_for(training):
    """Each watcher keeps what the decoder gives until a loss takes it: one that nobody asks keeps it for ever."""
    for name in ("masks", "memory", "masks"):
        training.module(name)
    assert len(training.model.visual_model.sam_mask_decoder.transformer._forward_hooks) == 1


@pytest.mark.slow
def test_a_stage_that_is_cut_off_by_the_clock_goes_on_to_the_same_weights(tmp_path):
    arguments = ["train", "--stage", "masks", "--steps", "2", "--workers", "0", "--threads", "1"]
    for name in ("whole", "cut"):
        vision = Stage("vision", (), "", Schedule(steps=1), 1, 1)
        TinyTraining(tmp_path / name, workers=0).run(vision, vision.schedule)
    stopped = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "cut"), "--minutes", "0"])
    assert "masks is not over" in stopped.output, (stopped.output, stopped.exception)
    states = []
    for name in ("whole", "cut"):
        done = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / name)])
        assert done.exit_code == 0, (done.output, done.exception)
        states.append(torch.load(tmp_path / name / "masks" / "state.pt", weights_only=True)["module"])
    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())
