"""One model in float32 and in half precision: the same masks, and buffers that must keep their precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trajseg.model import TrajSegConfig, TrajSegModel
from trajseg.model.mask_decoder import Tracker


@pytest.fixture(scope="module", params=["conv", "hiera"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = TrajSegConfig.tiny(vocab_size=60, seg_token_id=4)
    # With random weights, rounding would decide whether a cell is an object's centre.
    config.object_tokens, config.max_new_tokens = 0, 4
    sam2 = config.sam2_config
    sam2.no_obj_embed_spatial = sam2.pointer_times = True
    if request.param == "hiera":
        sam2.trunk = "hiera"
        sam2.trunk_kwargs = {"embed_dim": 16, "num_heads": 1, "stages": [1, 1, 2, 1], "global_att_blocks": [3]}
        sam2.channel_list = [128, 64, 32, 16]
        config.vision_stem = "patch"
    model = TrajSegModel(config).eval()
    model.visual_model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(8.0)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return folder


def _draw(folder: Path, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts, masks of a key frame and of three frames from memory, and a caption's tokens."""
    model = TrajSegModel.from_pretrained(folder, dtype)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(4, 3, 256, 256, generator=generator)
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.6]]).repeat(4, 1)
    with torch.inference_mode():
        features = model.encode_frames(pixels)
        states = model.vision_states(pixels)
        prompt = torch.cat([model.see(states).embeddings, model.trajectory_embeddings(states, boxes)])
        assert model.answer(prompt[:20], end_id=2).trajectories.dtype == dtype
        tokens = model.trajectory_tokens(torch.randn(2, 128, generator=generator).to(dtype))
        prompts = model.prompts(tokens, features[:1])
        tracker = Tracker(model.visual_model, frame_count=4)
        rows = torch.zeros(2, dtype=torch.long)
        logits = [
            tracker.step(i, features[rows + i], prompts[:, 0] if i == 0 else None).gated().float() for i in range(4)
        ]
    return prompt.float(), torch.stack(logits)


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.bfloat16, 0.03), pytest.param(torch.float16, 0.01, marks=pytest.mark.slow)]
)
def test_half_precision_draws_the_same_masks(folder: Path, dtype: torch.dtype, most: float) -> None:
    prompt, logits = _draw(folder, torch.float32)
    half_prompt, half_logits = _draw(folder, dtype)
    assert (half_prompt - prompt).abs().mean() < 0.02 * prompt.abs().mean() + 0.01
    differing = ((half_logits > 0) != (logits > 0)).float().mean()
    assert differing < most, f"{float(differing):.3f} of the pixels"
    assert (logits > 0).float().mean() > 0.02, "masks that are empty would compare equal"


def test_frequencies_stay_in_single_precision(folder: Path) -> None:
    model = TrajSegModel.from_pretrained(folder, torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    buffers = {name: buffer.dtype for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    assert set(buffers.values()) == {torch.float32}
    assert any("gaussian" in name for name in buffers)
    assert any("inv_freq" in name for name in buffers)
