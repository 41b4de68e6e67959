"""The training study starts all arms from equal weights, trains the documented parts, resumes, and compares."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trajseg.data.samples import Sample, Samples
from trajseg.engines.base import EngineSpec
from trajseg.engines.trajseg import VideoSegmenter
from trajseg.errors import CheckpointError
from trajseg.model import TrajSegConfig, TrajSegModel
from trajseg.shapes.recipe.texts import shapes_processor
from trajseg.shapes.samples import ShapesSamples
from trajseg.shapes.studies import training as study
from trajseg.shapes.studies.cells import Cells
from trajseg.shapes.studies.fresh import fit_head, fresh_start, tokens_and_prompts
from trajseg.shapes.studies.plan import Plan
from trajseg.shapes.studies.table import Spread
from trajseg.shapes.studies.training import ARMS, SMALL, Arm, learn, recipe_of, training
from trajseg.training.recipes import JointRecipe
from trajseg.training.run import Schedule

pytestmark = pytest.mark.slow
SOURCE = ShapesSamples(size=64)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained tiny model."""
    torch.manual_seed(3)
    processor = shapes_processor(256)
    folder = tmp_path_factory.mktemp("checkpoint")
    TrajSegModel(TrajSegConfig.tiny(len(processor.tokenizer), processor.seg_id)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    rng = random.Random(0)
    return [next(s for s in iter(lambda: SOURCE.video(rng, 2, "grounding"), None) if len(s.masks)) for _ in range(2)]


@pytest.fixture(scope="module")
def starts(checkpoint: Path, samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("starts")
    for name, seed, integration in (("with", 0, True), ("without", 0, False), ("other", 1, True)):
        fresh_start(checkpoint, folder / name, seed, integration, samples)
    return {name: TrajSegModel.from_pretrained(folder / name) for name in ("with", "without", "other")} | {
        "folder": folder
    }


def test_a_start_keeps_all_but_the_last_layer_of_the_head_and_content_integration(
    checkpoint: Path, starts: dict[str, Any]
) -> None:
    old, new = TrajSegModel.from_pretrained(checkpoint).state_dict(), starts["with"].state_dict()
    assert set(old) == set(new)
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert {name for name in changed if not name.startswith("fusion_layers.")} == {
        "text_hidden_fcs.0.2.weight",
        "text_hidden_fcs.0.2.bias",
    }
    assert any(name.startswith("fusion_layers.") for name in changed)


def test_starts_differ_in_content_integration_alone_which_the_seed_draws(starts: dict[str, Any]) -> None:
    whole, smaller, other = (starts[name].state_dict() for name in ("with", "without", "other"))
    drawn = {name for name in whole if name.startswith("fusion_layers.")}
    assert set(whole) - set(smaller) == drawn
    assert all(torch.equal(whole[name], smaller[name]) for name in smaller)
    assert all(torch.equal(other[name], smaller[name]) for name in smaller)
    assert any(not torch.equal(whole[name], other[name]) for name in drawn)
    assert starts["without"].config.integration_layers == 0


@torch.inference_mode()
def test_without_content_integration_the_token_itself_is_the_prompt_of_every_frame(starts: dict[str, Any]) -> None:
    features = starts["without"].encode_frames(torch.randn(2, 3, 256, 256))
    tokens = torch.randn(3, 128)
    prompts = starts["without"].prompts(tokens, features)
    torch.testing.assert_close(prompts, tokens[:, None].expand(3, 2, 128))
    assert (starts["with"].prompts(tokens, features) - tokens[:, None]).abs().mean() > 0.1


@torch.no_grad()
def test_the_head_is_fitted_to_what_content_integration_made_of_its_tokens(checkpoint: Path) -> None:
    model = TrajSegModel.from_pretrained(checkpoint)
    generator = torch.Generator().manual_seed(0)
    # Twelve directions, as if of colours and shapes.
    hidden = torch.randn(400, 12, generator=generator) @ torch.randn(12, 128, generator=generator)
    tokens = model.trajectory_tokens(hidden)
    wanted = tokens @ torch.randn(128, 128, generator=generator) / 11 + torch.randn(128, generator=generator)
    fit_head(model, tokens, wanted)
    error = (model.trajectory_tokens(hidden) - wanted).square().mean() / wanted.var()
    assert float(error) < 0.02


@torch.no_grad()
def test_prompts_are_averaged_over_the_frames_that_show_their_object(checkpoint: Path, samples: list[Sample]) -> None:
    loaded = VideoSegmenter.from_pretrained(checkpoint)
    sample = dataclasses.replace(samples[0], masks=samples[0].masks.copy())
    sample.masks[:, 0], sample.masks[:, 1] = False, True
    tokens, prompts = tokens_and_prompts(loaded, [sample])
    second = loaded.model.encode_frames(loaded.processor.mask_pixels(sample.frames[1:]))
    torch.testing.assert_close(prompts, loaded.model.prompts(tokens, second)[:, 0], atol=1e-4, rtol=1e-3)


def test_a_checkpoint_without_content_integration_cannot_be_started_from(
    starts: dict[str, Any], samples: list[Sample], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="no content integration"):
        fresh_start(starts["folder"] / "without", tmp_path, 0, True, samples)


def test_without_alignment_captions_become_instructions_and_all_else_stays() -> None:
    recipes = {there: recipe_of(Arm(there, True, 0), None) for there in (True, False)}
    assert dataclasses.replace(recipes[False], mixture=SMALL.mixture) == recipes[True]
    both = {there: Samples(SOURCE, r.mixture, 2, 1) for there, r in recipes.items()}
    pairs = [(both[True].sample(n), both[False].sample(n)) for n in range(24)]
    directions = {(a.direction, b.direction) for a, b in pairs}
    assert ("captioning", "grounding") in directions
    assert all(b == ("grounding" if a == "captioning" else a) for a, b in directions)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> JointRecipe:
    """Two steps of one clip of two frames."""
    schedule = Schedule(steps=2, lr=1e-3, warmup=1, log_every=1, save_every=1, decay="linear")
    mixture = dataclasses.replace(SMALL.mixture, images=0.0, propagation=0.0, captioning=1.0)
    recipe = dataclasses.replace(SMALL, mixture=mixture, schedule=schedule, batch=1, micro=1, frames=2)
    monkeypatch.setattr(study, "SMALL", recipe)
    monkeypatch.setattr(study, "FITTED_ON", 2)
    return recipe


@pytest.mark.parametrize("integration", [True, False])
def test_an_arm_is_trained_into_a_checkpoint_of_its_own_and_resumes_after_a_stop(
    small: JointRecipe, integration: bool, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm, plan = Arm(True, integration, 0), Plan(model=str(checkpoint), device="cpu")
    stopped = dataclasses.replace(small, schedule=dataclasses.replace(small.schedule, minutes=1e-9))
    with pytest.raises(KeyboardInterrupt):
        learn(stopped, arm, plan, tmp_path, SOURCE)
    losses = learn(small, arm, plan, tmp_path, SOURCE)
    assert len(losses) == 2
    trained = VideoSegmenter.from_pretrained(tmp_path / "checkpoint").model
    assert len(trained.fusion_layers.layers) == (3 if integration else 0)
    before, after = TrajSegModel.from_pretrained(tmp_path / "start").state_dict(), trained.state_dict()
    assert set(before) == set(after)
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    expected = {"llava", "text_hidden_fcs", "visual_model", "spi_module"}
    assert moved == (expected | {"fusion_layers"} if integration else expected)


def known(figure: Spread | None) -> Spread:
    assert figure
    return figure


def test_the_study_compares_the_four_arms_and_tells_what_each_part_brings(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[Arm] = []
    worth = {(False, False): 0.3, (True, False): 0.4, (False, True): 0.5, (True, True): 0.7}

    def learn(recipe: JointRecipe, arm: Arm, plan: Plan, folder: Path) -> list[float]:
        learned.append(arm)
        return [1.0, 0.5]

    class Found:
        def headline(self) -> dict[str, float | None]:
            arm = learned[-1]
            return {"referring_jf": worth[arm.alignment, arm.integration] + 0.1 * arm.seed, "reasoning_jf": None}

    monkeypatch.setattr(study, "learn", learn)
    stub: Any = SimpleNamespace(spec=EngineSpec(name="stub", model_version="stub"))
    monkeypatch.setattr("trajseg.VideoSegmenter.from_pretrained", lambda *_: stub)
    monkeypatch.setattr(study, "evaluate", lambda *_, **__: Found())
    plan = Plan(model=str(checkpoint), seeds=(0, 1))
    table, effects = training(plan, stub, Cells(tmp_path))
    assert [arm.seed for arm in learned] == [0] * 4 + [1] * 4
    assert known(table.rows["with alignment, without integration"]["referring_jf"]).each == (0.4, 0.5)
    assert known(table.rows["with alignment, with integration"]["loss_end"]).mean == 0.5
    assert known(effects.rows["bidirectional alignment"]["referring_jf"]).mean == pytest.approx(0.15)
    assert known(effects.rows["content integration"]["referring_jf"]).each == pytest.approx((0.25, 0.25))
    assert effects.rows["content integration"]["reasoning_jf"] is None
    assert training(plan, stub, Cells(tmp_path)) == [table, effects]
    assert len(learned) == 8
    assert len(ARMS) == 4
