"""Fine-tuning and a whole round of learning: exact resume, replay, stop, publication and its gate."""

from __future__ import annotations

import dataclasses
import gc
import json
import random
import weakref
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch

from trajseg import VideoSegmenter
from trajseg.checkpoints.manifest import read_manifest
from trajseg.checkpoints.own_data import check_own_data, replay_data
from trajseg.data.corrections import Corrections
from trajseg.data.registry import DatasetOptions, open_dataset, open_source
from trajseg.data.rehearsal import UNVARIED, Rehearsal, Variety
from trajseg.data.samples import Mixture, Sample
from trajseg.errors import CheckpointError, InputError
from trajseg.shapes.evaluation.annotator import by_side, correct
from trajseg.shapes.samples import TURNED, ShapesSamples
from trajseg.training.adapters import prepare
from trajseg.training.finetune import FULL_SIZE, FinetuneRecipe, finetune
from trajseg.training.gate import GateRules
from trajseg.training.joint import LossWeights
from trajseg.training.recipes import Trained, learning_rates
from trajseg.training.round import PER_CLIP, run_round
from trajseg.training.round_task import RoundTask, task_from_json, task_to_json

QUICK = FinetuneRecipe(
    steps=3, lr=3e-3, batch=2, micro=1, frames=2, warmup=1, mixture=Mixture(0.0, 0.0, 0.0, 0.3), save_minutes=0.0
)
"""With a high rate, so that its answers differ from the base's."""
REPLAY = ShapesSamples(size=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training videos and one held-out one, corrected."""
    posters = open_dataset("posters:train", DatasetOptions(count=30, height=64))
    clips = by_side(posters, {"train": 2, "held-out": 1})
    return correct(clips, tmp_path_factory.mktemp("project") / "corrections", expressions=1)


def weights(adapter: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(adapter / "adapter_model.safetensors")


def test_the_annotator_paints_some_frames_and_carries_them_to_the_others(folder: Path) -> None:
    held_out, train = Corrections(folder, "held-out"), Corrections(folder, "train")
    assert (len(held_out), len(train)) == (1, 2)
    assert held_out[0].annotated is not None, "only painted frames are scored"
    thing = next(thing for thing in train[0].objects)
    assert set(thing.weights.values()) == {1.0, 0.6}
    assert thing.caption


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_training_that_was_stopped_resumes_float_for_float(folder: Path, tmp_path: Path) -> None:
    corrections = Corrections(folder, "train")
    whole = finetune(QUICK, "trajseg-tiny", corrections, tmp_path / "whole", REPLAY)
    steps: list[int] = []
    stopped = finetune(
        QUICK,
        "trajseg-tiny",
        corrections,
        tmp_path / "cut",
        REPLAY,
        stop=lambda: len(steps) > 1,
        progress=lambda done, _total: steps.append(done),
    )
    assert stopped is None
    resumed = finetune(QUICK, "trajseg-tiny", corrections, tmp_path / "cut", REPLAY)
    assert whole is not None
    assert resumed is not None
    ours, theirs = weights(whole), weights(resumed)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert not any("embed_tokens" in name for name in ours), "words stay as they are"
    with pytest.raises(InputError, match=r"another training|another seed"):
        finetune(QUICK, "trajseg-tiny", corrections, tmp_path / "cut", REPLAY, seed=1)


def test_what_was_trained_is_freed_before_the_base_is_loaded_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the comparison: at full size the two do not fit on a card. accelerate leaves models in reference cycles."""
    trained: list[weakref.ref[torch.nn.Module]] = []

    def training(*_given: object, **_more: object) -> Trained:
        model = torch.nn.ModuleList([torch.nn.Linear(1, 1)])
        model.__dict__["itself"] = model
        trained.append(weakref.ref(model))
        return Trained(tmp_path, finished=False)

    monkeypatch.setattr("trajseg.training.finetune.train_jointly", training)
    gc.disable()
    try:
        finetune(QUICK, "trajseg-tiny", Corrections(folder, "train"), tmp_path, REPLAY)
        assert [model() for model in trained] == [None]
    finally:
        gc.enable()


def test_corrections_are_mixed_with_what_the_base_learned_from(folder: Path) -> None:
    corrections = Corrections(folder, "train")
    source, rng = Rehearsal(corrections, REPLAY, 0.5), random.Random(0)
    heights = [source.image(rng, "grounding").frames.shape[1:3] for _ in range(40)]
    sizes = {(annotated.clip.height, annotated.clip.width) for annotated in (corrections[0], corrections[1])}
    assert 10 < sum(size in sizes for size in heights) < 30
    assert source.directions == {"grounding", "captioning", "propagation"}
    with pytest.raises(InputError, match="share of replay is 1"):
        Rehearsal(corrections, REPLAY, 1.0)


def test_clips_are_varied_and_those_of_the_base_borrow_the_look_of_corrected_ones(folder: Path) -> None:
    corrections = Corrections(folder, "train")

    def first(seed: int, share: float, variety: Variety) -> Sample:
        source = Rehearsal(corrections, REPLAY, share, variety)
        return source.together(random.Random(seed), 2, ["grounding", "captioning"])[0]

    def saturation(sample: Sample) -> float:
        assert sample.objects is not None
        return float(np.ptp(sample.frames[sample.objects == 0].astype(float), axis=1).mean())

    always, replay = Variety(1.0, 1.0, 1.0, 0.0), 1 - 1e-9
    plain = [first(seed, 0.0, UNVARIED) for seed in range(4)]
    varied = [first(seed, 0.0, always) for seed in range(4)]
    assert [a.instruction for a in plain] == [b.instruction for b in varied], "the same is asked"
    assert not any(np.array_equal(a.frames, b.frames) for a, b in zip(plain, varied, strict=True))
    assert any(not np.array_equal(a.masks, b.masks) for a, b in zip(plain, varied, strict=True))
    muted = fmean(saturation(first(seed, replay, UNVARIED)) for seed in range(8))
    borrowed = fmean(saturation(first(seed, replay, always)) for seed in range(8))
    assert muted < 40 < 80 < borrowed, "backgrounds of posters are saturated"
    assert FULL_SIZE.variety == UNVARIED, "descriptions of real videos mention light, material and background"
    own = Variety(1.0, 0.0, 0.0, 0.0)
    untouched = [(first(seed, replay, UNVARIED), first(seed, replay, own)) for seed in range(3)]
    assert all(np.array_equal(a.frames, b.frames) for a, b in untouched), "plain replay is unchanged"
    alone = [first(seed, 0.5, Variety()) for seed in range(6)]
    again = [first(seed, 0.5, Variety()) for seed in range(6)]
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(alone, again, strict=True))


def test_what_to_replay_is_said_by_the_checkpoint(tmp_path: Path) -> None:
    assert replay_data("trajseg-tiny") == "shapes:turned"
    assert open_source(replay_data("trajseg-tiny")) == ShapesSamples(turned=TURNED)
    (tmp_path / "config.json").write_text(json.dumps({"model_name": "ours"}))
    with pytest.raises(InputError, match="does not say what it was trained on"):
        replay_data(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_name": "ours", "replay_data": "ref-youtube-vos:/d"}))
    assert replay_data(str(tmp_path)) == "ref-youtube-vos:/d"


def test_all_data_sets_that_a_training_lacks_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_name": "ours"}))
    with pytest.raises(InputError) as caught:
        check_own_data(tmp_path, None, "")
    assert "what it was trained on" in caught.value.message
    assert "nor on what it must not get worse" in caught.value.message
    assert "TRAJSEG_REPLAY_DATA=" in caught.value.remedy
    assert "TRAJSEG_BASE_DATA=" in caught.value.remedy
    with pytest.raises(InputError) as caught:
        check_own_data(tmp_path, "shapes:turned", None)
    assert "TRAJSEG_REPLAY_DATA" not in caught.value.remedy
    check_own_data(tmp_path, "shapes:turned", "shapes:val")
    check_own_data("trajseg-tiny", None, None)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_round_publishes_a_version_that_an_engine_serves_and_forgets_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PER_CLIP, "project", 2)
    task = RoundTask(
        "trajseg-tiny",
        str(folder),
        str(tmp_path / "work"),
        str(tmp_path / "models" / "1"),
        "trajseg-tiny/project-1@1",
        recipe=QUICK,
        rules=GateRules(min_clips=1),
        device="cpu",
    )
    assert task_from_json(json.loads(json.dumps(task_to_json(task)))) == task
    base_set = open_dataset("shapes:val", DatasetOptions(count=1, height=64))
    asked = 0

    def stop() -> bool:
        return asked > QUICK.steps

    def progress(done: int, total: int) -> None:
        nonlocal asked
        asked = done
        assert done <= total == QUICK.steps + 3 * 2

    assert run_round(task, stop, progress, base_set) is None, "stopped between two clips of the gate"
    decision = run_round(task, base_set=base_set)
    assert decision is not None
    assert not decision.promoted, "one clip tells nothing"
    manifest = read_manifest(Path(task.target))
    assert manifest.decision["reason"] == decision.reason
    assert [clip["side"] for clip in manifest.data["clips"]] == ["train", "train", "held-out"]
    assert (manifest.recipe["replay"], manifest.recipe["blend"]) == (QUICK.replay, QUICK.blend)
    differs = any(pair.gain for pair in decision.project)
    assert (Path(task.target) / "differences.png").exists() == differs, "drawn where answers differ"

    engine = VideoSegmenter.from_pretrained("trajseg-tiny", "cpu")
    annotated = base_set[0]
    clip, instruction = annotated.clip, annotated.expressions[0].text
    base = engine.segment(clip, instruction).result().to_json()["tracks"]
    adapted = engine.adapted(Path(task.target))
    assert adapted.spec.model_version == "trajseg-tiny/project-1@1"
    served = adapted.segment(clip, instruction).result()
    assert served.model_version == "trajseg-tiny/project-1@1"
    assert engine.segment(clip, instruction).result().to_json()["tracks"] == base
    assert adapted.segment(clip, instruction).result().to_json()["tracks"] == served.to_json()["tracks"]
    with pytest.raises(CheckpointError):
        engine.adapted(tmp_path / "nowhere")


def test_too_few_held_out_videos_train_nothing(folder: Path, tmp_path: Path) -> None:
    task = RoundTask("trajseg-tiny", str(folder), str(tmp_path / "work"), str(tmp_path / "1"), "v", device="cpu")
    decision = run_round(dataclasses.replace(task, rules=GateRules(min_clips=3)))
    assert decision is not None
    assert decision.needs_videos == 4
    assert not (tmp_path / "work").exists()
    with pytest.raises(InputError, match=r"no export of corrections|cannot be read"):
        run_round(dataclasses.replace(task, corrections=str(tmp_path)))


def test_the_recipe_of_a_small_base_moves_what_sees_and_its_norms_faster() -> None:
    model = VideoSegmenter.from_pretrained("trajseg-tiny", "cpu").model
    recipe = FinetuneRecipe().joint()
    parts = prepare(model, recipe.lora, recipe.whole)
    assert set(parts) == set(FinetuneRecipe().parts)
    rates = learning_rates(recipe, model, parts)
    encoder = model.visual_model.image_encoder
    assert rates[encoder.trunk.stages[0][0].weight] == 1.0
    assert rates[encoder.trunk.stages[0][1].weight] == 5.0
    decoder = {rates[parameter] for parameter in parts["mask decoder"]}
    assert decoder == {0.25, 1.25}
    assert not any(p.requires_grad for p in (*model.fusion_layers.parameters(), *model.text_hidden_fcs.parameters()))
    assert recipe.weights == LossWeights(score=0.0)
    assert FULL_SIZE.joint().weights == LossWeights()
    large = FULL_SIZE.joint()
    assert not {"vision tower", "mask encoder"} & set(large.whole)
    assert set(large.rates.values()) == {1.0}
