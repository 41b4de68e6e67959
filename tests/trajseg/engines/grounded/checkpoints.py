"""Tiny random checkpoints of the real classes, saved in folders like the hub's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

from trajseg.model.config import Sam2Config
from trajseg.model.sam2 import build_sam2
from trajseg.shapes.engines import detector, vlm


def save_detector(folder: Path) -> Path:
    """An MM-Grounding-DINO whose contrastive bias makes it detect a lot."""
    torch.manual_seed(0)
    model = detector.fresh()
    heads = model.get_submodule("class_embed")
    with torch.no_grad():
        for number, _ in enumerate(heads.children()):
            heads.get_parameter(f"{number}.bias").fill_(1.0)
    model.save_pretrained(folder)
    detector.processor().save_pretrained(folder)
    return folder


def save_qwen3_vl(folder: Path) -> Path:
    """A Qwen3-VL."""
    torch.manual_seed(0)
    vlm.fresh().save_pretrained(folder)
    vlm.processor().save_pretrained(folder)
    return folder


def save_qwen3_5(folder: Path) -> Path:
    """A Qwen3.5: every fourth layer has full attention, the others are linear."""
    torch.manual_seed(0)
    like = vlm.config()
    words = like.get_text_config()
    text = {
        "vocab_size": words.vocab_size + 32,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "max_position_embeddings": 2048,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 64,
        "num_position_embeddings": 16,
    }
    tokens = {
        name: getattr(like, name)
        for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    }
    model = Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=vision, **tokens))
    model.save_pretrained(folder)
    vlm.processor().save_pretrained(folder)
    return folder


def tiny_sam2_config(**changes: object) -> Sam2Config:
    """SAM 2.1 at 64 pixels with Hiera's trunk."""
    sizes: dict[str, Any] = {
        "trunk_kwargs": {
            "embed_dim": 8,
            "num_heads": 1,
            "stages": [1, 1, 2, 1],
            "global_att_blocks": [3],
            "window_pos_embed_bkg_spatial_size": [4, 4],
            "window_spec": [4, 4, 4, 2],
        },
        "channel_list": (64, 32, 16, 8),
        "d_model": 32,
        "image_size": 64,
        "memory_dim": 16,
        "memory_layers": 1,
        "memory_feedforward": 32,
        "no_obj_embed_spatial": True,
        "pointer_times": True,
    }
    return Sam2Config(**{**sizes, **changes})


def save_sam2(folder: Path, there: bool = True) -> Path:
    """A SAM 2.1 with its config; `there`: its object score is always above 0."""
    torch.manual_seed(0)
    config = tiny_sam2_config()
    sam2 = build_sam2(config)
    if there:
        torch.nn.init.constant_(sam2.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 8.0)
    config.save_pretrained(folder)
    save_file({name: tensor.contiguous() for name, tensor in sam2.state_dict().items()}, folder / "model.safetensors")
    return folder


def save_grounded(folder: Path) -> Path:
    """A checkpoint with all three parts."""
    save_detector(folder / "detector")
    save_sam2(folder / "tracker")
    save_qwen3_vl(folder / "chooser")
    return folder
