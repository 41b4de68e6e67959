"""The recipe of trajseg-tiny: a step's loss depends only on the step, so a stage resumes exactly."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from trajseg.cli import main
from trajseg.shapes.recipe import pixels, stages
from trajseg.shapes.recipe.clips import ClipStream
from trajseg.shapes.recipe.command import STAGES
from trajseg.shapes.recipe.pixels import Pairs, PixelTraining
from trajseg.shapes.recipe.recipe import TINY, Stage
from trajseg.shapes.recipe.stages import TinyTraining
from trajseg.training.run import Part, Schedule


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> TinyTraining:
    return TinyTraining(tmp_path_factory.mktemp("tiny"), seed=0, workers=0)


@pytest.mark.parametrize(
    "name",
    [
        "vision",
        "tower",
        "language",
        "masks",
        "memory",
        "tracking",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("pixels", "captions")),
        "boxes",
    ],
)
def test_a_steps_loss_is_the_same_whatever_was_requested_before(
    training: TinyTraining, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_the_mask_decoder_is_watched_once_however_often_its_module_is_requested(training: TinyTraining) -> None:
    """Each hook keeps the decoder's output until a loss reads it; one that is never read would keep it forever."""
    for name in ("masks", "memory", "tracking", "masks"):
        training.module(name)
    assert len(training.model.visual_model.sam_mask_decoder.transformer._forward_hooks) == 1


@pytest.mark.slow
def test_a_stage_that_is_cut_off_by_the_clock_resumes_to_the_same_weights(tmp_path: Path) -> None:
    arguments = ["train", "--stage", "masks", "--steps", "2", "--workers", "0", "--threads", "1"]
    for name in ("whole", "cut"):
        vision = Stage("vision", (), "", Schedule(steps=1), 1, 1)
        TinyTraining(tmp_path / name, workers=0).run(vision, vision.schedule)
    stopped = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "cut"), "--minutes", "0"])
    assert "masks is not finished" in stopped.output, (stopped.output, stopped.exception)
    states = []
    for name in ("whole", "cut"):
        done = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / name)])
        assert done.exit_code == 0, (done.output, done.exception)
        states.append(torch.load(tmp_path / name / "masks" / "state.pt", weights_only=True)["module"])
    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_missing_device_is_named(tmp_path: Path, device: str) -> None:
    done = CliRunner().invoke(main, ["train", "--out", str(tmp_path / "run"), "--device", device])
    assert f"There is no device {device} here" in done.output
    assert "Name cpu, or one of the GPUs" in done.output
    assert not (tmp_path / "run").exists()


def test_every_stage_has_a_command_and_builds_on_earlier_ones() -> None:
    assert tuple(stage.name for stage in TINY) == STAGES
    for number, stage in enumerate(TINY):
        assert set(stage.needs) <= set(STAGES[:number])


def test_the_language_sides_tower_learns_on_apart_from_sam2s_encoder(tmp_path: Path) -> None:
    vision = Stage("vision", (), "", Schedule(steps=1), 1, 1)
    tower = Stage("tower", ("vision",), "", Schedule(steps=2, lr=1e-2), 1, 1)
    for stage in (vision, tower):
        assert TinyTraining(tmp_path, workers=0).run(stage, stage.schedule)
    models = {}
    for last in STAGES[:2]:
        trained = TinyTraining(tmp_path, workers=0)
        for name in STAGES[: STAGES.index(last) + 1]:
            trained.load(name)
        models[last] = trained.model
    before, after = models["vision"], models["tower"]
    encoder = before.visual_model.image_encoder.state_dict()
    assert all(torch.equal(old, after.visual_model.image_encoder.state_dict()[name]) for name, old in encoder.items())
    pictures = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        assert not torch.equal(before.patch_features(pictures), after.patch_features(pictures))
    moved = [
        not torch.equal(*two)
        for two in zip(before.vision_tower.parameters(), after.vision_tower.parameters(), strict=True)
    ]
    assert sum(moved) > 0.8 * len(moved)


def test_the_projector_is_fitted_to_nothing_of_pairs_and_then_stays(
    training: TinyTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Colour counts only for unnamed shapes, shape only for unnamed colours, and neither for a named pair."""
    fitted: list[Pairs] = []
    monkeypatch.setattr(pixels, "FITTED_CLIPS", 40)
    monkeypatch.setattr(pixels, "_fit", lambda _, parts: fitted.extend(parts))
    module = training.module("pixels")
    assert isinstance(module, PixelTraining)
    clips = list(itertools.islice(ClipStream(0, 2, 256, unnamed=0.5, unshaped=0.4), 40))
    module.fit_projector(iter([clips[:20], clips[20:]]))

    colours, shapes, sizes = module.language.eye.names()
    wanted = ((colours, True), (shapes, False)), ((colours, False), (shapes, True)), ((colours, False), (shapes, False))
    for part, kinds in zip(fitted, wanted, strict=True):
        assert len(part.read) == len(part.wanted) > 10
        for names, counts in (*kinds, (sizes, True)):
            left = (names @ part.rest).norm(dim=1) / names.norm(dim=1)
            assert bool((left > 0.5).all()) if counts else float(left.max()) < 1e-5
    assert not any(p.requires_grad for p in module.projector.parameters())


def test_what_is_no_error_is_left_to_a_fitted_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "FITTING_STEPS", 400)
    torch.manual_seed(0)
    word, read = torch.tensor([[3.0, 4.0, 0.0]]), torch.randn(200, 2)
    wanted = read @ torch.tensor([[0.1, -0.1, 0.2], [0.0, 0.1, -0.1]])
    rest = pixels._beyond(word)
    module = torch.nn.Linear(2, 3)
    torch.nn.init.zeros_(module.weight)
    pixels._fit(module, [pixels.Pairs(read, wanted + torch.randn(200, 1) * word, rest)])
    torch.testing.assert_close(module(read) @ rest, wanted @ rest, atol=0.05, rtol=0.0)
