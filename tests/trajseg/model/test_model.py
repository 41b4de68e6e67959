"""The model's parts against slow reference implementations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from trajseg.errors import CheckpointError
from trajseg.model import TrajSegConfig, TrajSegModel
from trajseg.model.content_integration import ContentIntegration
from trajseg.model.mask_decoder import NO_OBJECT_LOGIT, Tracker
from trajseg.model.modeling import object_centres


@pytest.fixture(scope="module")
def model() -> TrajSegModel:
    torch.manual_seed(0)
    return TrajSegModel(TrajSegConfig.tiny(vocab_size=60, seg_token_id=4)).eval()


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(4, 3, 256, 256, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def object_score(model: TrajSegModel) -> Iterator[Callable[[float], None]]:
    """Sets the decoder's object score for every object."""
    head = model.visual_model.sam_mask_decoder.pred_obj_score_head.layers[-1]
    kept = copy.deepcopy(head.state_dict())

    def say(score: float) -> None:
        with torch.no_grad():
            head.weight.zero_()
            head.bias.fill_(score)

    yield say
    head.load_state_dict(kept)


def test_content_integration_equals_plain_multi_head_attention() -> None:
    torch.manual_seed(0)
    integration = ContentIntegration(dim=32, layers=3, heads=4).eval()
    for layer in integration.layers:  # biases start at zero, which would hide a mistake in them
        nn.init.normal_(layer.get_parameter("0.in_proj_bias"))
        nn.init.normal_(layer.get_parameter("0.out_proj.bias"))
    q, x = torch.randn(5, 32), torch.randn(5, 49, 32)

    z = q[None]
    for layer in integration.layers:
        attention, norm = layer.get_submodule("0"), layer.get_submodule("1")
        attended, weights = attention(z, x.transpose(0, 1), x.transpose(0, 1), average_attn_weights=False)
        z = norm(z + attended)

    prompts, collapsed = integration(q, x)
    torch.testing.assert_close(prompts, z[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(collapsed, weights[:, :, 0], atol=1e-6, rtol=1e-4)


@torch.inference_mode()
def test_every_object_asks_every_key_frame_by_itself(model: TrajSegModel, pixels: torch.Tensor) -> None:
    features = model.encode_frames(pixels[:2])
    tokens = torch.randn(3, 128, generator=torch.Generator().manual_seed(2))
    prompts = model.prompts(tokens, features)
    assert prompts.shape == (3, 2, 128)
    for s in range(3):
        for k in range(2):
            alone, _ = model.fusion_layers(tokens[s : s + 1], features.top[k].flatten(1).T[None])
            torch.testing.assert_close(prompts[s, k], alone[0], atol=1e-5, rtol=1e-4)
    assert model.prompts(tokens[:0], features).shape == (0, 2, 128)


@torch.inference_mode()
def test_several_objects_decoded_as_one_batch_are_those_decoded_alone(
    model: TrajSegModel, pixels: torch.Tensor
) -> None:
    features = model.encode_frames(pixels)
    prompts = model.prompts(torch.randn(3, 128), features[:2])

    def run(objects: list[int]) -> list[torch.Tensor]:
        tracker = Tracker(model.visual_model, frame_count=4)
        rows = torch.zeros(len(objects), dtype=torch.long)
        key = {0: prompts[objects, 0], 2: prompts[objects, 1]}
        return [tracker.step(i, features[rows + i], key.get(i)).logits for i in range(4)]

    together = run([0, 1, 2])
    for number in range(3):
        for frame, alone in enumerate(run([number])):
            torch.testing.assert_close(together[frame][number], alone[0], atol=1e-3, rtol=1e-3)


@torch.inference_mode()
def test_key_frames_do_not_read_memory_and_other_frames_do(model: TrajSegModel, pixels: torch.Tensor) -> None:
    features = model.encode_frames(pixels)
    row = torch.zeros(1, dtype=torch.long)
    prompt = torch.randn(1, 128)

    def last(prompted: bool, before: int) -> torch.Tensor:
        tracker = Tracker(model.visual_model, frame_count=4)
        tracker.step(0, features[row + before], prompt)
        return tracker.step(3, features[row + 3], prompt if prompted else None).logits

    torch.testing.assert_close(last(True, before=0), last(True, before=1))
    assert (last(False, before=0) - last(False, before=1)).abs().max() > 1e-4


@torch.inference_mode()
def test_a_prompted_frame_that_is_no_key_frame_reads_memory_and_its_prompt(
    model: TrajSegModel, pixels: torch.Tensor
) -> None:
    features = model.encode_frames(pixels)
    row = torch.zeros(1, dtype=torch.long)
    prompts = torch.randn(2, 1, 128, generator=torch.Generator().manual_seed(6))

    def last(before: int, prompt: torch.Tensor) -> torch.Tensor:
        tracker = Tracker(model.visual_model, frame_count=4)
        tracker.step(0, features[row + before], prompts[0])
        drawn = tracker.step(3, features[row + 3], prompt, key=False)
        assert (list(tracker.key_memories), list(tracker.other_memories)) == ([0], [3])
        return drawn.logits

    assert (last(0, prompts[1]) - last(1, prompts[1])).abs().max() > 1e-4
    assert (last(0, prompts[1]) - last(0, prompts[0])).abs().max() > 1e-4


@torch.inference_mode()
def test_key_frames_read_memory_where_the_model_says_so(model: TrajSegModel, pixels: torch.Tensor) -> None:
    features = model.encode_frames(pixels)
    row, prompt = torch.zeros(1, dtype=torch.long), torch.randn(1, 128)

    def last(before: int) -> torch.Tensor:
        tracker = Tracker(model.visual_model, frame_count=4, key_frame_memory=True)
        tracker.step(0, features[row + before], prompt)
        return tracker.step(3, features[row + 3], prompt).logits

    assert (last(0) - last(1)).abs().max() > 1e-4


@torch.inference_mode()
def test_an_absent_object_has_no_pixel_and_the_fixed_pointer(
    model: TrajSegModel, pixels: torch.Tensor, object_score: Callable[[float], None]
) -> None:
    features = model.encode_frames(pixels[:1])
    object_score(-1.0)
    decoded = Tracker(model.visual_model, 1).step(0, features, torch.randn(1, 128))
    assert (decoded.gated() == NO_OBJECT_LOGIT).all()
    torch.testing.assert_close(decoded.pointer, model.visual_model.no_obj_ptr)
    assert (decoded.logits != NO_OBJECT_LOGIT).all(), "the ungated logits are what training needs"


@torch.inference_mode()
def test_memory_believes_an_object_above_the_start_score_and_then_above_0(
    model: TrajSegModel, pixels: torch.Tensor, object_score: Callable[[float], None]
) -> None:
    features = model.encode_frames(pixels[:1])

    def believed(start: float) -> list[bool]:
        tracker, seen = Tracker(model.visual_model, 6, start_score=start), []
        for index, bias in enumerate((0.5, 2.0, 0.5, -1.0, 0.5, 1.5)):
            object_score(bias)
            drawn = tracker.step(index, features, torch.randn(1, 128))
            assert float(drawn.score) == bias, "what is drawn of a run is decided when the run is over"
            absent = torch.equal(drawn.pointer, model.visual_model.no_obj_ptr)
            memory = tracker.key_memories[index]["maskmem_features"]
            empty = tracker._remember(features, drawn, torch.tensor([False]))["maskmem_features"]
            assert torch.equal(memory, empty) == absent
            seen.append(not absent)
        return seen

    assert believed(0.0) == [True, True, True, False, True, True]
    assert believed(1.0) == [False, True, True, False, False, True]


@torch.inference_mode()
def test_old_memories_are_dropped_and_conditioning_ones_kept(model: TrajSegModel, pixels: torch.Tensor) -> None:
    features = model.encode_frames(pixels[:1])
    tracker = Tracker(model.visual_model, frame_count=22)
    for index in range(22):
        tracker.step(index, features, torch.randn(1, 128) if index % 20 == 0 else None)
    assert sorted(tracker.key_memories) == [0, 20]
    assert len(tracker.other_memories) <= 16


@torch.inference_mode()
def test_generation_with_a_cache_equals_generation_without(model: TrajSegModel) -> None:
    prompt = torch.randn(12, 128, generator=torch.Generator().manual_seed(3))
    answer = model.answer(prompt, end_id=2)

    inputs, ids, states = prompt[None], [], []
    for _ in range(model.config.max_new_tokens):
        hidden = model.language_model(inputs_embeds=inputs, use_cache=False).last_hidden_state[0, -1]
        token = int(model.llava.lm_head(hidden).argmax())
        if token == 2:
            break
        ids.append(token)
        if token == 4:
            states.append(hidden)
        inputs = torch.cat([inputs, model.embed_words(torch.tensor([[token]]))], dim=1)
    assert answer.ids == ids
    assert len(answer.trajectories) == len(states)
    if states:
        expected = model.trajectory_tokens(torch.stack(states))
        torch.testing.assert_close(answer.trajectories, expected, atol=1e-4, rtol=1e-3)


def test_gradients_reach_every_part_that_an_answer_uses(model: TrajSegModel, pixels: torch.Tensor) -> None:
    features = model.encode_frames(pixels[:2])
    tokens = model.trajectory_tokens(torch.randn(2, 128))
    prompts = model.prompts(tokens, features[:1])
    tracker = Tracker(model.visual_model, frame_count=2)
    rows = torch.zeros(2, dtype=torch.long)
    tracker.step(0, features[rows], prompts[:, 0], present=torch.tensor([True, True]))
    tracker.step(1, features[rows + 1], None).logits.square().mean().backward()
    sam2 = model.visual_model
    for part in (model.text_hidden_fcs, model.fusion_layers, sam2.memory_encoder, sam2.image_encoder.trunk):
        gradient = sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None)
        assert gradient > 0
    model.zero_grad(set_to_none=True)


def test_object_centres_are_local_peaks_and_never_none() -> None:
    logits = torch.full((2, 256), -6.0)
    logits[0, 20], logits[0, 21], logits[0, 200] = 3.0, 2.0, 1.0
    keep = object_centres(logits, most=10)
    assert keep[0].nonzero().flatten().tolist() == [20, 200], "the weaker neighbour is the same object"
    assert keep[1].any(), "a frame without objects still has a token"
    assert object_centres(logits, most=1)[0].nonzero().flatten().tolist() == [20]


def test_a_checkpoint_comes_back_as_it_was_saved(model: TrajSegModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = TrajSegModel.from_pretrained(tmp_path)
    assert not loaded.training
    for (name, saved), (_, back) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert torch.equal(saved, back), name


def test_a_checkpoint_in_half_precision_loads_as_single(model: TrajSegModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    whole, half = (tmp_path / name / "model.safetensors" for name in ("whole", "half"))
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    loaded = TrajSegModel.from_pretrained(tmp_path / "half")
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, model.state_dict()[name], atol=1e-3, rtol=1e-3)


def test_a_folder_that_is_no_checkpoint_or_does_not_fit_is_refused(model: TrajSegModel, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        TrajSegModel.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    TrajSegConfig.tiny(vocab_size=61, seg_token_id=4).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="does not fit"):
        TrajSegModel.from_pretrained(tmp_path)


def test_the_vision_pretraining_path_is_the_model_s_own(model: TrajSegModel, pixels: torch.Tensor) -> None:
    from trajseg.shapes.recipe.vision import VisionPretraining

    torch.manual_seed(0)
    fresh = TrajSegModel(TrajSegConfig.tiny(vocab_size=60, seg_token_id=4)).eval()
    pretraining = VisionPretraining(fresh).eval()
    with torch.no_grad():
        torch.testing.assert_close(pretraining(pixels)[0], fresh.patch_features(pixels), atol=1e-5, rtol=1e-4)
