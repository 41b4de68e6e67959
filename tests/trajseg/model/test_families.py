"""Other families of language models instead of LLaVA: the same class answers and segments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, PretrainedConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.tiny_clip import TinyClip
from trajseg import VideoSegmenter
from trajseg.errors import CheckpointError
from trajseg.model import TrajSegConfig, TrajSegModel, TrajSegProcessor
from trajseg.model.processor import word_tokenizer
from trajseg.model.qwen import as_patches

SIDE = 112


def small_qwen(family: str) -> PretrainedConfig:
    vision: dict[str, Any] = {
        "depth": 2,
        "num_heads": 2,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    if family == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": 48, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 32, "out_hidden_size": 48, "intermediate_size": 64, "window_size": 56}
        vision["fullatt_block_indexes"] = [1]
    text: dict[str, Any] = {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text |= {"num_key_value_heads": 2, "vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 4, 4]}
    return AutoConfig.for_model(family, vision_config=vision, text_config=text, tie_word_embeddings=False)


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl"])
def segmenter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoSegmenter:
    torch.manual_seed(0)
    config = TrajSegConfig(
        llava_config=small_qwen(request.param),
        sam2_config=TrajSegConfig.tiny(60, 4).sam2_config,
        llm_frames=3,
        seg_token_id=4,
        max_new_tokens=2,
    )
    folder = tmp_path_factory.mktemp(request.param)
    TrajSegModel(config).save_pretrained(folder)
    TrajSegProcessor(word_tokenizer(["red"]), llm_size=SIDE, mask_size=256).save_pretrained(folder)
    return VideoSegmenter.from_pretrained(folder)


def test_it_answers_and_segments(segmenter: VideoSegmenter, tiny_clip: TinyClip) -> None:
    model = segmenter.model
    assert "llava.model.visual.patch_embed.proj.weight" in model.state_dict()
    with torch.inference_mode():
        seen = model.see(model.vision_states(torch.randn(3, 3, SIDE, SIDE)))
    assert seen.embeddings.shape == (3 * 16, 48)
    assert seen.frame.bincount().tolist() == [16, 16, 16]
    # Nothing is trained here, so the head is set to say [SEG].
    head = torch.nn.Linear(48, 60)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    head.bias.data[4] = 1.0
    model.llava.lm_head = head
    result = segmenter.segment(tiny_clip.path, "the red circle").result()
    assert result.answer == "[SEG] [SEG]"
    assert [len(track.frames) for track in result.tracks] == [result.frame_count] * 2


@torch.inference_mode()
def test_other_pictures_give_other_tokens(segmenter: VideoSegmenter) -> None:
    model = segmenter.model
    one, other = (model.vision_states(torch.full((1, 3, SIDE, SIDE), value))[0] for value in (-1.0, 1.0))
    assert one.shape == (1, 16, 48)
    assert not torch.allclose(one, other)


@torch.inference_mode()
def test_patches_are_those_of_the_family_s_own_image_processor() -> None:
    picture = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8)
    plain: dict[str, Any] = {"do_resize": False, "do_rescale": False, "do_normalize": False, "do_convert_rgb": False}
    theirs = Qwen2VLImageProcessorPil(**plain)(images=[picture.numpy()], return_tensors="pt")
    ours = as_patches(picture[None].float(), patch=14, merge=2, times=2)[0]
    assert theirs["image_grid_thw"].tolist() == [[1, 8, 8]]
    assert torch.equal(ours, theirs["pixel_values"].float())


def test_what_only_clip_can_give_is_refused() -> None:
    with pytest.raises(CheckpointError, match="its own vision tower"):
        TrajSegModel.skeleton(TrajSegConfig(llava_config=small_qwen("qwen2_5_vl"), trajectory_encoder={}))
