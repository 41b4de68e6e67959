"""The warm start: what it trains, what fine-tuning makes of it, and which one is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from trajseg import VideoSegmenter
from trajseg.checkpoints.folders import checkpoint_folder
from trajseg.cli import main
from trajseg.data.registry import DatasetOptions, open_dataset
from trajseg.errors import CheckpointError, InputError
from trajseg.shapes.samples import ShapesSamples
from trajseg.training import warm_start
from trajseg.training.adapters import PARTS, SIGHT
from trajseg.training.finetune import FinetuneRecipe, finetune
from trajseg.training.warm_start import SCHEDULE, load_warm_start, save_warm_start, train_warm_start, warm_start_of

SIGHT_NAMES = tuple(name for part in SIGHT for name in PARTS[part])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of one question about two frames of one clip."""
    for name, count in (("CLIPS", 1), ("FRAMES", 2), ("QUESTIONS", 1)):
        monkeypatch.setattr(warm_start, name, count)


@pytest.mark.usefixtures("small")
def test_only_the_vision_side_is_trained_and_an_interruption_changes_nothing(tmp_path: Path) -> None:
    base = VideoSegmenter.from_pretrained("trajseg-tiny", device="cpu").model.state_dict()
    schedule, stops = dataclasses.replace(SCHEDULE, steps=2, warmup=1), iter([False, True])
    begun = ("trajseg-tiny", tmp_path / "broken", ShapesSamples(size=64), schedule)
    whole = train_warm_start("trajseg-tiny", tmp_path / "whole", ShapesSamples(size=64), schedule)
    assert train_warm_start(*begun, stop=lambda: next(stops)) is None
    weights = train_warm_start(*begun)
    assert weights is not None
    assert whole is not None
    assert all(torch.equal(whole[name], tensor) for name, tensor in weights.items())
    assert all(name.startswith(SIGHT_NAMES) for name in weights)
    changed = [name for name, tensor in weights.items() if not torch.equal(tensor, base[name])]
    assert len(changed) > 0.9 * len(weights)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_command_resumes_only_the_same_training_and_fine_tuning_can_use_its_file(tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(checkpoint_folder("trajseg-tiny"), base)

    def run(*more: str) -> Result:
        words = ["train", "warm-start", "--checkpoint", str(base), "--out", str(out), "--trainings", "1"]
        return CliRunner().invoke(main, [*words, "--workers", "0", "--threads", "1", *more])

    for more, said in ((["--minutes", "0"], "Training 1 of 1 is not finished"), ([], "Warm start: ")):
        done = run("--steps", "1", *more)
        assert done.exit_code == 0, (done.output, done.exception)
        assert said in done.output
    for other, words in (("schedule", ["--steps", "2"]), ("data", ["--steps", "1", "--data", "shapes:train"])):
        refused = run(*words)
        assert refused.exit_code == 2
        assert f"has a training with another {other}." in refused.output
    path = Path(shutil.copy(out / "warm_start.safetensors", base))
    assert warm_start_of(base) == path
    corrected = open_dataset("posters:train", DatasetOptions(count=1, height=64))
    tuned = tmp_path / "tuned"
    assert finetune(FinetuneRecipe(), str(base), corrected, tuned, ShapesSamples(size=64), stop=lambda: True) is None
    before_its_first_step = load_file(tuned / "adapter" / "adapter_model.safetensors")
    key = next(key for key in load_file(path) if key.startswith(SIGHT_NAMES[0]) and key.endswith("class_embedding"))
    assert torch.equal(before_its_first_step[f"base_model.model.{key}"], load_file(path)[key].float())
    (base / "config.json").write_text((base / "config.json").read_text() + "\n")
    assert "has a training with another weights." in run("--steps", "1").output


def test_several_trainings_are_averaged_and_loaded_over_the_base(tmp_path: Path) -> None:
    model = VideoSegmenter.from_pretrained("trajseg-tiny", device="cpu").model
    name = f"{SIGHT_NAMES[1]}.linear_1.bias"
    like = torch.ones_like(model.state_dict()[name])
    path = save_warm_start([{name: like}, {name: 2 * like}], tmp_path / "warm_start.safetensors")
    load_warm_start(model, path)
    assert torch.equal(model.state_dict()[name], 1.5 * like)


def test_the_shipped_one_fits_the_base_and_is_no_part_of_what_serves(tmp_path: Path) -> None:
    path = warm_start_of(checkpoint_folder("trajseg-tiny"))
    assert path is not None
    model = VideoSegmenter.from_pretrained("trajseg-tiny", device="cpu").model
    weights = load_file(path)
    assert {name.startswith(SIGHT_NAMES) for name in weights} == {True}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_warm_start(model, path)
    after = model.state_dict()
    assert {name for name in after if not torch.equal(before[name], after[name])} <= set(weights)
    assert any(not torch.equal(before[name], after[name]) for name in weights)


def test_one_of_another_model_is_refused(tmp_path: Path) -> None:
    model = VideoSegmenter.from_pretrained("trajseg-tiny", device="cpu").model
    path = save_warm_start([{"visual_model.odd": torch.ones(2)}], tmp_path / "warm_start.safetensors")
    with pytest.raises(CheckpointError, match=r"does not fit.*visual_model\.odd"):
        load_warm_start(model, path)


def test_a_training_resumes_only_from_the_start_and_the_base_that_it_began_with(tmp_path: Path) -> None:
    from trajseg.data.samples import Mixture
    from trajseg.training.recipes import JointRecipe, train_jointly
    from trajseg.training.run import Schedule

    folder = tmp_path / "base"
    shutil.copytree(checkpoint_folder("trajseg-tiny"), folder)
    mixture = Mixture(images=1.0, pseudo_videos=0.0, propagation=0.0, captioning=0.0)
    recipe = JointRecipe(mixture, Schedule(steps=1, warmup=1), 1, 1, 1)
    source, out = ShapesSamples(size=64), tmp_path / "out"
    train_jointly(recipe, str(folder), out, source, initial=folder / "warm_start.safetensors", stop=lambda: True)
    with pytest.raises(InputError, match="another warm_start"):
        train_jointly(recipe, str(folder), out, source)
    settings = json.loads((out / "recipe.json").read_text())
    del settings["warm_start"], settings["base_weights"]
    (out / "recipe.json").write_text(json.dumps(settings))
    train_jointly(recipe, str(folder), out, source, stop=lambda: True)  # as one begun by an earlier release
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    with pytest.raises(InputError, match="another base_weights"):
        train_jointly(recipe, str(folder), out, source)
