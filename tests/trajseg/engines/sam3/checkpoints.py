"""A tiny random SAM 3 of the real class, saved in the hub's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    PreTrainedTokenizerFast,
    Sam2VideoVideoProcessor,
    Sam3ImageProcessor,
    Sam3VideoConfig,
    Sam3VideoModel,
    Sam3VideoProcessor,
)

SIDE, PATCH, HIDDEN = 56, 14, 128
WORDS = [
    "<pad>",
    "<start>",
    "<end>",
    "<unk>",
    "red",
    "green",
    "blue",
    "yellow",
    "square",
    "circle",
    "star",
    "ring",
    "thing",
]


def tiny_config(**changes: object) -> Sam3VideoConfig:
    """Every part of the real one, at 56 pixels."""
    grid = SIDE // PATCH
    vision = {
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": SIDE,
            "patch_size": PATCH,
            "pretrain_image_size": SIDE,
            "window_size": 2,
            "global_attn_indexes": [1],
        },
        "fpn_hidden_size": HIDDEN,
        "backbone_feature_sizes": [[4 * grid, 4 * grid], [2 * grid, 2 * grid], [grid, grid]],
    }
    small = {"hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_attention_heads": 4, "dropout": 0.0}
    detector = {
        "model_type": "sam3",
        "vision_config": {"model_type": "sam3_vision_model", **vision},
        "text_config": {
            "vocab_size": len(WORDS),
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "projection_dim": HIDDEN,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "max_position_embeddings": 32,
            "bos_token_id": WORDS.index("<start>"),
            "pad_token_id": WORDS.index("<pad>"),
            "eos_token_id": WORDS.index("<end>"),
        },
        "geometry_encoder_config": {**small, "num_layers": 1},
        "detr_encoder_config": {**small, "num_layers": 1},
        "detr_decoder_config": {**small, "num_layers": 1, "num_queries": 4},
        "mask_decoder_config": {"hidden_size": HIDDEN, "num_attention_heads": 4},
    }
    tracker = {
        "model_type": "sam3_tracker_video",
        "image_size": SIDE,
        "vision_config": {"model_type": "sam3_vision_model", **vision},
        "prompt_encoder_config": {"hidden_size": HIDDEN, "image_size": SIDE, "patch_size": PATCH},
        "mask_decoder_config": {"hidden_size": HIDDEN, "mlp_dim": 64, "iou_head_hidden_dim": 64},
        "memory_attention_hidden_size": HIDDEN,
        "memory_attention_num_layers": 1,
        "memory_attention_feed_forward_hidden_size": 64,
        "memory_attention_rope_feat_sizes": [grid, grid],
        "memory_encoder_hidden_size": HIDDEN,
        "mask_downsampler_embed_dim": HIDDEN,
        "memory_fuser_embed_dim": HIDDEN,
        "memory_fuser_intermediate_dim": 64,
    }
    sizes: dict[str, Any] = {
        "detector_config": detector,
        "tracker_config": tracker,
        "low_res_mask_size": 4 * grid,
        "hotstart_delay": 4,
        "hotstart_unmatch_thresh": 4,
        "hotstart_dup_thresh": 4,
    }
    return Sam3VideoConfig(**{**sizes, **changes})


def tiny_processor() -> Sam3VideoProcessor:
    """Words of the shapes world, padded to 32 tokens like CLIP's."""
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<start>", 1), ("<end>", 2)]
    words.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<start>", eos_token="<end>", unk_token="<unk>",
        model_max_length=32,
    )  # fmt: skip
    size = {"height": SIDE, "width": SIDE}
    grid = 4 * SIDE // PATCH
    return Sam3VideoProcessor(
        image_processor=Sam3ImageProcessor(size=size, mask_size={"height": grid, "width": grid}),
        video_processor=Sam2VideoVideoProcessor(size=size),
        tokenizer=tokenizer,
    )


def save_sam3(folder: Path, seen: str = "red square", unseen: str = "yellow star", **changes: object) -> Path:
    """A SAM 3 with its processor.

    Its masks are random. Its scores are set so that everything matches the phrase `seen` and nothing matches `unseen`.
    """
    torch.manual_seed(0)
    model, processor = Sam3VideoModel(tiny_config(**changes)).eval(), tiny_processor()
    _set_scores(model.detector_model, processor, seen, unseen)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@torch.no_grad()
def _set_scores(detector: Any, processor: Sam3VideoProcessor, seen: str, unseen: str) -> None:
    """Scores are dot products of a query and a phrase: here +6 for one phrase and -6 for the other, for all queries."""
    scoring, pooled = detector.dot_product_scoring, []
    hook = scoring.text_proj.register_forward_pre_hook(
        lambda _, inputs: pooled.append(inputs[0].reshape(-1, HIDDEN)[0])
    )
    for phrase in (seen, unseen):
        words = processor.tokenizer(phrase, return_tensors="pt", padding="max_length", max_length=32)
        detector(pixel_values=torch.zeros(1, 3, SIDE, SIDE), **words)
    hook.remove()
    step = pooled[0] - pooled[1]
    size = float(HIDDEN**0.5)
    scoring.query_proj.weight.zero_()
    scoring.query_proj.bias.zero_()
    scoring.query_proj.bias[0] = 1.0
    scoring.text_proj.weight.zero_()
    scoring.text_proj.bias.zero_()
    scoring.text_proj.weight[0] = 12 * size * step / step.square().sum()
    scoring.text_proj.bias[0] = -6 * size - scoring.text_proj.weight[0] @ pooled[1]
    detector.detr_decoder.presence_head.layer3.bias.fill_(8.0)
