"""Joint training of the shipped checkpoint: which parts learn from which samples, losses, adapters, command."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from accelerate import debug_launcher
from accelerate.state import AcceleratorState, GradientState
from click.testing import CliRunner
from peft import PeftModel
from torch import nn
from torch.nn import functional as F

from trajseg import VideoSegmenter
from trajseg.checkpoints.own_data import base_set_of, replay_data
from trajseg.cli import main
from trajseg.data.samples import Direction, Mixture, Sample, Samples
from trajseg.errors import CheckpointError, InputError
from trajseg.model import TrajSegConfig, TrajSegModel
from trajseg.model.content_integration import IntegrationLayer
from trajseg.model.mask_decoder import FrameFeatures
from trajseg.shapes.samples import ShapesSamples
from trajseg.training.adapter_folder import merge_adapter, save_adapter
from trajseg.training.adapters import HEADS, SIGHT, LoraSettings, add_trajectory_encoder, prepare, recompute_layers
from trajseg.training.health import gradient_norms
from trajseg.training.joint import JointTraining, LossWeights
from trajseg.training.recipes import JointRecipe, train_jointly
from trajseg.training.run import Part, Schedule, train

SOURCE = ShapesSamples(size=128)
STILL = LoraSettings(dropout=0.0)


@pytest.fixture(scope="module")
def shipped() -> VideoSegmenter:
    loaded = VideoSegmenter.from_pretrained("trajseg-tiny", device="cpu")
    torch.manual_seed(0)
    add_trajectory_encoder(loaded.model)
    return loaded


@pytest.fixture
def joint(shipped: VideoSegmenter) -> JointTraining:
    """The shipped model in joint training, with non-zero adapters and without dropout."""
    model = copy.deepcopy(shipped.model)
    torch.manual_seed(1)
    parts = prepare(model, STILL)
    for layer in model.fusion_layers.layers:
        assert isinstance(layer, IntegrationLayer)
        layer.dropout = 0.0
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)
    return JointTraining(model, shipped.processor, parts, Samples(SOURCE, Mixture(), 2, 2))


def norms(joint: JointTraining, sample: Sample) -> dict[str, float]:
    joint.zero_grad()
    joint.terms(sample).total(joint.weights).backward()
    return gradient_norms(joint.learning_parts())


def kept_bytes(joint: JointTraining, sample: Sample) -> int:
    """Bytes stored for the backward pass, without the inputs of recomputed parts."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total = joint.terms(sample).total(joint.weights)
    assert total.requires_grad
    return sum(kept.values())


def test_each_direction_trains_its_parts_and_nothing_frozen(joint: JointTraining) -> None:
    rng, parts = random.Random(0), set(joint.learning_parts())
    grounding = next(s for s in iter(lambda: SOURCE.video(rng, 2, "grounding"), None) if len(s.masks))
    learned = {part for part, norm in norms(joint, grounding).items() if norm > 0}
    assert learned == parts - {"trajectory encoder"}
    assert {part for part, norm in norms(joint, SOURCE.video(rng, 2, "captioning")).items() if norm > 0} == parts
    moved = {part for part, norm in norms(joint, SOURCE.video(rng, 2, "propagation")).items() if norm > 0}
    assert moved == {"mask decoder"}

    frozen = {name for name, p in joint.model.named_parameters() if not p.requires_grad}
    for name, parameter in joint.model.named_parameters():
        assert (parameter.grad is None) or name not in frozen
    assert {name for name in frozen if "vision_tower" in name}
    assert {name for name in frozen if "image_encoder" in name}
    assert {name for name in frozen if "multi_modal_projector" in name}
    adapted = [name for name, p in joint.model.named_parameters() if "lora_" in name and p.requires_grad]
    layers = joint.model.config.llava_config.text_config.num_hidden_layers
    assert len(adapted) == layers * 2 * 2, "A and B of q and v in every layer of the language model, nowhere else"


def test_a_bf16_checkpoint_trains_in_float32_without_mixed_precision(shipped: VideoSegmenter, tmp_path: Path) -> None:
    """As written by `trajseg model assemble`: config.json says bf16, the recipe float32."""
    shipped.model.save_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    shipped.processor.save_pretrained(tmp_path / "half")
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    (tmp_path / "half" / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    assert VideoSegmenter.from_pretrained(tmp_path / "half", device="cpu").model.dtype == torch.bfloat16
    recipe = JointRecipe(Mixture(images=0.0, pseudo_videos=0.0, propagation=0.0), Schedule(steps=1, warmup=1), 1, 1, 2)
    adapter, _ = train_jointly(recipe, str(tmp_path / "half"), tmp_path / "out", SOURCE)
    assert (adapter / "adapter_model.safetensors").exists()


def test_mask_losses_alone_reach_the_language_model(joint: JointTraining) -> None:
    """Through the decoder, content integration and the head of the trajectory tokens; a closed gate changes nothing."""
    nn.init.constant_(joint.model.visual_model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, -50.0)
    joint.weights = LossWeights(text=0.0, score=0.0)
    sample = SOURCE.video(random.Random(2), 2, "captioning")
    assert joint.terms(sample).gate_open == 0.0
    reached = norms(joint, sample)
    assert all(norm > 0 for norm in reached.values())


def test_losses_are_those_of_the_paper() -> None:
    """Against loops over targets and frames, at the picture's own size; the second target is absent in one frame."""
    rng = np.random.default_rng(0)
    masks = torch.from_numpy(rng.random((2, 3, 12, 16)) > 0.6)
    masks[1, 1] = False
    logits, score = torch.randn(2, 3, 8, 8), torch.randn(2, 3)
    up = F.interpolate(logits, (16, 16), mode="bilinear", align_corners=False)[:, :, :12]
    geometry = SimpleNamespace(
        to_picture=lambda planes, h, w: F.interpolate(planes[:, None], (16, 16), mode="bilinear")[:, 0, :h, :w]
    )
    joint: Any = SimpleNamespace(processor=geometry)
    terms = JointTraining._mask_terms(joint, torch.tensor(0.7), logits, score, masks)
    bce, dice, scored = [], [], []
    for k in range(2):
        for t in range(3):
            z, y = up[k, t], masks[k, t].float()
            p, seen = z.sigmoid(), bool(masks[k, t].any())
            bce.append(float(-(y * p.log() + (1 - y) * (1 - p).log()).mean()) * seen)
            dice.append(float(1 - (2 * (p * y).sum() + 1e-6) / (p.sum() + y.sum() + 1e-6)) * seen)
            q = float(score[k, t].sigmoid())
            scored.append(-np.log(q if seen else 1 - q))
    assert float(terms.bce) == pytest.approx(np.mean(bce), rel=1e-4)
    assert float(terms.dice) == pytest.approx(np.mean(dice), rel=1e-4)
    assert float(terms.score) == pytest.approx(np.mean(scored), rel=1e-4)
    total = 0.7 + 2.0 * np.mean(bce) + 0.5 * np.mean(dice) + 0.5 * np.mean(scored)
    assert float(terms.total(LossWeights())) == pytest.approx(total, rel=1e-4)


@torch.no_grad()
def test_weights_scale_the_losses_of_their_frames_and_words(joint: JointTraining) -> None:
    sample = SOURCE.video(random.Random(2), 2, "captioning")
    shape = sample.masks.shape[:2]

    def terms(weight: float, mask_weights: np.ndarray | None) -> list[float]:
        found = joint.terms(dataclasses.replace(sample, weight=weight, mask_weights=mask_weights))
        return [float(found.text), float(found.bce), float(found.dice), float(found.score)]

    plain = terms(1.0, None)
    assert terms(1.0, np.ones(shape, np.float32)) == plain
    assert terms(0.25, np.full(shape, 0.5, np.float32)) == pytest.approx(
        [plain[0] * 0.25, *(loss * 0.5 for loss in plain[1:])], rel=1e-4
    )
    assert terms(0.0, np.zeros(shape, np.float32)) == [0.0] * 4
    one, other = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    one[:, 0], other[:, 1:] = 1, 1
    halves = np.add(terms(1.0, one)[1:], terms(1.0, other)[1:])
    assert halves == pytest.approx(plain[1:], rel=1e-4)


@torch.no_grad()
def test_decoding_all_prompted_frames_at_once_equals_one_by_one(joint: JointTraining) -> None:
    sample = SOURCE.video(random.Random(3), 3, "captioning")
    features = joint._features(sample.frames)
    token = torch.randn(2, joint.model.config.sam2_config.d_model)
    at_once, _ = joint._prompted(features, token)
    for t in range(3):
        one = FrameFeatures(features.top[t : t + 1], features.s0[t : t + 1], features.s1[t : t + 1])
        torch.testing.assert_close(joint._prompted(one, token)[0][:, 0], at_once[:, t], atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_samples_of_the_same_frames_are_encoded_once_with_the_same_loss(
    joint: JointTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = SOURCE.together(random.Random(3), 2, ["grounding", "captioning", "grounding"])
    assert all(sample.frames is together[0].frames for sample in together)
    apart = [dataclasses.replace(sample, frames=sample.frames.copy()) for sample in together]
    looks: list[int] = []
    encode = joint.model.encode_frames

    def looking(pixels: torch.Tensor) -> FrameFeatures:
        looks.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(joint.model, "encode_frames", looking)
    losses = []
    for samples in (together, apart):
        monkeypatch.setattr(joint, "samples", lambda _number, chosen=samples: chosen)
        loss, _ = joint.loss(Part(0))
        losses.append(float(loss))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert looks == [2] * (1 + len([sample for sample in apart if len(sample.masks)]))


def test_vision_side_is_trained_only_if_requested(shipped: VideoSegmenter) -> None:
    model = copy.deepcopy(shipped.model)
    assert not {"vision tower", "mask encoder"} & prepare(model, STILL).keys()
    assert not any(p.requires_grad for p in model.vision_tower.parameters())
    parts = prepare(copy.deepcopy(shipped.model), STILL, (*HEADS, *SIGHT))
    assert {"vision tower", "mask encoder"} <= parts.keys()


def test_loss_does_not_depend_on_how_a_batch_is_divided(joint: JointTraining) -> None:
    joint.samples = Samples(SOURCE, Mixture(), 2, batch=2)
    whole, figures = joint.loss(Part(3))
    joint.samples = Samples(SOURCE, Mixture(), 2, batch=1)
    halves = [joint.loss(Part(3, index, 2)) for index in (0, 1)]
    assert float(whole) == pytest.approx(sum(float(value) for value, _ in halves) / 2, abs=1e-5)
    weighted = sum(getattr(LossWeights(), name) * figures[name] for name in ("text", "bce", "dice", "score"))
    assert float(whole) == pytest.approx(weighted, abs=1e-4)


@pytest.mark.parametrize("direction", ["image", "grounding", "captioning", "propagation"])
def test_recomputing_changes_no_gradient_and_stores_less(
    joint: JointTraining, direction: Direction | Literal["image"]
) -> None:
    rng = random.Random(4)
    sample = SOURCE.image(rng, "grounding") if direction == "image" else SOURCE.video(rng, 4, direction)
    plain, kept = norms(joint, sample), kept_bytes(joint, sample)
    recompute_layers(joint.model)
    joint.recompute = True
    assert norms(joint, sample) == pytest.approx(plain, rel=1e-4)
    assert kept_bytes(joint, sample) < kept / 2


@torch.no_grad()
def test_a_merged_adapter_is_the_trained_model_and_any_peft_can_load_it(
    joint: JointTraining, shipped: VideoSegmenter, tmp_path: Path
) -> None:
    joint.model.eval()
    nn.init.normal_(joint.model.get_parameter("text_hidden_fcs.0.0.bias"))
    save_adapter(joint.model, STILL, "trajseg-tiny", tmp_path)
    sample = SOURCE.video(random.Random(5), 2, "captioning")
    text, token = joint.read(sample)

    def read(model: TrajSegModel) -> tuple[torch.Tensor, torch.Tensor]:
        return JointTraining(model, shipped.processor, {}, joint.samples).read(sample)

    before, _ = read(shipped.model)
    assert abs(float(before - text)) > 1e-4, "the adapter does something"
    merged = merge_adapter(VideoSegmenter.from_pretrained("trajseg-tiny", device="cpu").model, tmp_path)
    assert not any("lora" in name for name in merged.state_dict())
    torch.testing.assert_close(read(merged), (text, token), atol=1e-4, rtol=1e-3)
    adapted = PeftModel.from_pretrained(copy.deepcopy(shipped.model), str(tmp_path))
    whole = adapted.get_base_model()
    assert isinstance(whole, TrajSegModel)
    torch.testing.assert_close(read(whole.eval())[0], text, atol=1e-4, rtol=1e-3)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is missing"):
        merge_adapter(merged, tmp_path / "nowhere")


def test_the_7b_model_trains_the_papers_parameters() -> None:
    model = TrajSegModel.skeleton(TrajSegConfig.full_size())
    count = {part: sum(p.numel() for p in parameters) for part, parameters in prepare(model, LoraSettings()).items()}
    assert count["adapters of the language model"] == 64 * 8 * (4096 + 4096), "q and v of 32 layers, 4.19 M"
    assert count["words"] == 2 * 32008 * 4096
    assert count["trajectory encoder"] > 290e6
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == sum(count.values())
    assert round(sum(count.values()) / 1e6) == 589
    count = {part: sum(p.numel() for p in parameters) for part, parameters in prepare(model, None, HEADS).items()}
    assert round((sum(count.values()) - count["language model"]) / 1e6) == 323, "a project's, without its 4 M of LoRA"


def test_frozen_weights_in_half_precision_give_nearly_the_same_losses(
    joint: JointTraining, shipped: VideoSegmenter
) -> None:
    sample = SOURCE.video(random.Random(6), 2, "captioning")
    with torch.no_grad():
        exact = joint.eval().terms(sample).total(joint.weights)
    half = copy.deepcopy(joint)
    for parameter in half.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = half.terms(sample).total(half.weights)
    value.backward()
    assert float(value.detach()) == pytest.approx(float(exact), rel=0.05)
    assert gradient_norms({"all": [p for p in half.parameters() if p.requires_grad]})["all"] > 0
    assert all(p.grad.dtype == torch.float32 for p in half.parameters() if p.grad is not None)


def _half_of_a_batch(folder: Path) -> None:
    """A process forked from this one, as one of several."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    train_jointly(TWO_A_STEP, "trajseg-tiny", folder, SOURCE)


TWO_A_STEP = JointRecipe(Mixture(), Schedule(steps=3, lr=1e-3, warmup=1, log_every=1), batch=2, micro=1, frames=2)


@pytest.mark.slow
def test_two_processes_train_like_one_with_both_samples(tmp_path: Path) -> None:
    """Some of the samples train only the mask decoder."""
    train_jointly(TWO_A_STEP, "trajseg-tiny", tmp_path / "alone", SOURCE)
    debug_launcher(_half_of_a_batch, args=(tmp_path / "two",), num_processes=2)
    alone, two = (
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("alone", "two")
    )
    assert two == pytest.approx(alone, abs=1e-4)


@pytest.mark.slow
def test_a_few_steps_lower_the_loss_on_a_fixed_batch(joint: JointTraining, tmp_path: Path) -> None:
    fixed = Samples(SOURCE, Mixture(), 2, batch=2, seed=1)(0)
    joint.samples = lambda _: fixed
    assert train(tmp_path, joint, joint.loss, Schedule(steps=6, lr=5e-4, warmup=1, log_every=1), whole=False)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.7 * losses[0]


class FailsOnce(ShapesSamples):
    """A source that fails at its fifth sample."""

    calls = 0

    def video(self, rng: random.Random, frames: int, direction: Direction) -> Sample:
        FailsOnce.calls += 1
        if FailsOnce.calls == 5:
            raise OSError("the disk is gone")
        return super().video(rng, frames, direction)


@pytest.mark.slow
def test_crashed_joint_training_resumes_exactly(tmp_path: Path) -> None:
    """Including the dropout of the adapters and of content integration."""
    schedule = Schedule(steps=3, lr=1e-3, warmup=1, save_every=1)
    recipe = JointRecipe(Mixture(images=0.0, pseudo_videos=0.0), schedule, batch=2, micro=1, frames=2)

    def states(out: str, source: ShapesSamples) -> dict[str, torch.Tensor]:
        train_jointly(recipe, "trajseg-tiny", tmp_path / out, source)
        return torch.load(tmp_path / out / "state.pt", weights_only=True)["module"]

    whole = states("whole", SOURCE)
    with pytest.raises(OSError, match="the disk is gone"):
        states("broken", FailsOnce(size=128))
    assert torch.load(tmp_path / "broken" / "state.pt", weights_only=True)["step"] == 2
    resumed = states("broken", FailsOnce(size=128))
    assert set(resumed) == set(whole)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


@pytest.mark.slow
def test_commands_train_resume_reject_and_merge(tmp_path: Path) -> None:
    run, out = CliRunner(), str(tmp_path / "run")
    begun = ["train", "joint", "--stage", "2", "--batch", "1", "--frames", "2", "--steps", "2", "--workers", "0"]
    for more, said in ((["--minutes", "0"], "resumes from there"), ([], "Adapter:")):
        done = run.invoke(main, [*begun, "--threads", "1", "--out", out, *more])
        assert done.exit_code == 0, (done.output, done.exception)
        assert said in done.output
    for more, said in (
        (["--data", "shapes:turned"], "another data."),
        (["--stage", "1"], "has a training with another"),
    ):
        other = run.invoke(main, [*begun, "--threads", "1", "--out", out, *more])
        assert other.exit_code == 2
        assert said in other.output
    arguments = ["--adapter", f"{out}/adapter", "--out", str(tmp_path / "merged"), "--half"]
    done = run.invoke(main, ["model", "merge", *arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    merged = VideoSegmenter.from_pretrained(tmp_path / "merged", device="cpu")
    assert merged.model.config.trajectory_encoder is not None
    assert merged.spec.model_version.startswith("trajseg-tiny-"), "other weights, another version"
    assert replay_data(str(tmp_path / "merged")) == replay_data("trajseg-tiny")
    assert base_set_of(str(tmp_path / "merged")) == base_set_of("trajseg-tiny")
    named = ["model", "merge", *arguments[:-2], str(tmp_path / "named"), "--name", "ours"]
    assert "(ours)" in run.invoke(main, named).output


def test_batch_that_cannot_be_divided_evenly_is_rejected(tmp_path: Path) -> None:
    uneven = JointRecipe(Mixture(), Schedule(steps=1), batch=3, micro=2, frames=2)
    with pytest.raises(InputError, match="cannot be divided into 1 x 2"):
        train_jointly(uneven, "trajseg-tiny", tmp_path, SOURCE)
