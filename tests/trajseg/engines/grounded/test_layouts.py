"""The classes that `grounded` loads have the tensors of the published checkpoints: names and shapes.

The tables below do not come from transformers' classes. LLMDet and MM-Grounding-DINO: the names from the
conversion of OpenMMLab's files (transformers, convert_mm_grounding_dino_to_hf.py) and the sizes of its
get_mm_grounding_dino_config. Qwen3-VL: the names and byte counts of its own model.safetensors.index.json and the sizes
of its config.json. Models are built on the meta device; their names are mapped back with the table with which
transformers renames a checkpoint on loading. A release that renames without such an entry fails here.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import pytest
import torch
from transformers import (
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    PreTrainedModel,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SwinConfig,
)
from transformers.core_model_loading import revert_weight_conversion

from trajseg.model.weights import empty_weights

Layout = dict[str, tuple[int, ...]]
SWIN = {
    "tiny": (7, 96, (2, 2, 6, 2), (3, 6, 12, 24), (2, 3, 4)),
    "base": (12, 128, (2, 2, 18, 2), (4, 8, 16, 32), (2, 3, 4)),
    "large": (12, 192, (2, 2, 18, 2), (6, 12, 24, 48), (1, 2, 3, 4)),
}
"""Window, width, depths, heads and output stages of each size."""
QWEN3_VL = {
    "4B": ((2560, 36, 32, 8, 9728, True), (1024, 24, 4096, (5, 11, 17))),
    "8B": ((4096, 36, 32, 8, 12288, False), (1152, 27, 4304, (8, 16, 24))),
}
"""Text: width, layers, heads, key heads, inner width, whether embeddings are tied; vision: width, layers,
inner width, and DeepStack's layers."""
WORDS, PLACES = 151936, 2304


def named(prefix: str, out: int, into: int | tuple[int, ...] | None = None) -> Layout:
    """A layer's weight and bias; without `into`, those of a normalisation."""
    inner = () if into is None else (into,) if isinstance(into, int) else into
    return {f"{prefix}.weight": (out, *inner), f"{prefix}.bias": (out,)}


def under(prefix: str, *parts: Layout) -> Layout:
    return {f"{prefix}.{name}": shape for part in parts for name, shape in part.items()}


def square(prefix: str, *names: str, width: int = 256) -> Layout:
    return under(prefix, *(named(name, width, width) for name in names))


def swin(size: str) -> Layout:
    window, width, depths, heads, stages = SWIN[size]
    layout = named("embeddings.patch_embeddings.projection", width, (3, 4, 4)) | named("embeddings.norm", width)
    for stage, (depth, several) in enumerate(zip(depths, heads, strict=True)):
        wide, layers = width * 2**stage, f"encoder.layers.{stage}"
        for block in range(depth):
            here = f"{layers}.blocks.{block}"
            layout |= named(f"{here}.layernorm_before", wide) | named(f"{here}.layernorm_after", wide)
            layout |= square(f"{here}.attention.self", "query", "key", "value", width=wide)
            layout |= square(f"{here}.attention.output", "dense", width=wide)
            layout[f"{here}.attention.self.relative_position_bias_table"] = ((2 * window - 1) ** 2, several)
            layout |= named(f"{here}.intermediate.dense", 4 * wide, wide) | named(
                f"{here}.output.dense", wide, 4 * wide
            )
        if stage < 3:
            layout |= named(f"{layers}.downsample.norm", 4 * wide)
            layout[f"{layers}.downsample.reduction.weight"] = (2 * wide, 4 * wide)
        if stage + 1 in stages:
            layout |= named(f"hidden_states_norms.stage{stage + 1}", wide)
    return under("model.backbone.conv_encoder.model", layout)


def bert() -> Layout:
    layout: Layout = {f"embeddings.{name}.weight": (rows, 768) for name, rows in BERT_ROWS.items()}
    layout |= named("embeddings.LayerNorm", 768)
    for number in range(12):
        here = f"encoder.layer.{number}"
        layout |= square(f"{here}.attention.self", "query", "key", "value", width=768)
        layout |= square(f"{here}.attention.output", "dense", width=768) | named(f"{here}.output.LayerNorm", 768)
        layout |= named(f"{here}.attention.output.LayerNorm", 768)
        layout |= named(f"{here}.intermediate.dense", 3072, 768) | named(f"{here}.output.dense", 768, 3072)
    return under("model.text_backbone", layout)


BERT_ROWS = {"word_embeddings": 30522, "position_embeddings": 512, "token_type_embeddings": 2}


def deformable(prefix: str, levels: int) -> Layout:
    sampled = 8 * levels * 4
    offsets = named(f"{prefix}.sampling_offsets", 2 * sampled, 256)
    return offsets | named(f"{prefix}.attention_weights", sampled, 256) | square(prefix, "value_proj", "output_proj")


def norms(*names: str) -> Layout:
    return {name: shape for each in names for name, shape in named(each, 256).items()}


def box_head(prefix: str) -> Layout:
    return under(prefix, *(named(f"layers.{number}", 4 if number == 2 else 256, 256) for number in range(3)))


def fusion() -> Layout:
    layout: Layout = {"vision_param": (256,), "text_param": (256,)} | norms("layer_norm_vision", "layer_norm_text")
    for name in ("vision_proj", "text_proj", "values_vision_proj", "values_text_proj"):
        layout |= named(f"attn.{name}", 1024, 256)
    return layout | named("attn.out_vision_proj", 256, 1024) | named("attn.out_text_proj", 256, 1024)


def grounding_dino(size: str) -> Layout:
    """MM-Grounding-DINO and LLMDet of this size."""
    width, stages = SWIN[size][1], SWIN[size][4]
    levels = len(stages) + 1
    model: Layout = {"level_embed": (levels, 256), "query_position_embeddings.weight": (900, 256)}
    for number, stage in enumerate(stages):
        model |= named(f"input_proj_vision.{number}.0", 256, (width * 2 ** (stage - 1), 1, 1))
    model |= named(f"input_proj_vision.{levels - 1}.0", 256, (width * 8, 3, 3))
    model |= norms(*(f"input_proj_vision.{number}.1" for number in range(levels)), "enc_output_norm")
    model |= named("text_projection", 256, 768) | named("enc_output", 256, 256)
    model |= box_head("encoder_output_bbox_embed") | {"encoder_output_class_embed.bias": ()}
    for number in range(6):
        model |= under(
            f"encoder.layers.{number}", under("fusion_layer", fusion()), encoder_text(), encoder_vision(levels)
        )
        model |= under(f"decoder.layers.{number}", decoder_layer(levels))
        model |= box_head(f"decoder.bbox_embed.{number}") | {f"decoder.class_embed.{number}.bias": ()}
    model |= norms("decoder.layer_norm")
    model |= named("decoder.reference_points_head.layers.0", 256, 512)
    model |= named("decoder.reference_points_head.layers.1", 256, 256)
    heads: Layout = {f"class_embed.{number}.bias": () for number in range(6)}
    for number in range(6):
        heads |= box_head(f"bbox_embed.{number}")
    return under("model", model) | heads | swin(size) | bert()


def encoder_text() -> Layout:
    layout = square("self_attn", "query", "key", "value", "out_proj") | norms("layer_norm_before", "layer_norm_after")
    return under("text_enhancer_layer", layout, named("fc1", 1024, 256), named("fc2", 256, 1024))


def encoder_vision(levels: int) -> Layout:
    layout = deformable("self_attn", levels) | norms("self_attn_layer_norm", "final_layer_norm")
    return under("deformable_layer", layout, named("fc1", 2048, 256), named("fc2", 256, 2048))


def decoder_layer(levels: int) -> Layout:
    layout = square("self_attn", "query", "key", "value", "out_proj") | deformable("encoder_attn", levels)
    layout |= square("encoder_attn_text", "query", "key", "value", "out_proj")
    layout |= norms(
        "self_attn_layer_norm", "encoder_attn_text_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"
    )
    return layout | named("fc1", 2048, 256) | named("fc2", 256, 2048)


def qwen3_vl(size: str) -> Layout:
    (wide, layers, heads, key_heads, inner, shared), (seen, depth, seen_inner, taps) = QWEN3_VL[size]
    layout: Layout = {"embed_tokens.weight": (WORDS, wide), "norm.weight": (wide,)}
    for number in range(layers):
        here = f"layers.{number}"
        layout |= {f"{here}.{name}.weight": (wide,) for name in ("input_layernorm", "post_attention_layernorm")}
        layout |= {f"{here}.self_attn.{name}.weight": (128,) for name in ("q_norm", "k_norm")}
        layout[f"{here}.self_attn.q_proj.weight"] = (128 * heads, wide)
        layout |= {f"{here}.self_attn.{name}.weight": (128 * key_heads, wide) for name in ("k_proj", "v_proj")}
        layout[f"{here}.self_attn.o_proj.weight"] = (wide, 128 * heads)
        layout |= {f"{here}.mlp.{name}.weight": (inner, wide) for name in ("gate_proj", "up_proj")}
        layout[f"{here}.mlp.down_proj.weight"] = (wide, inner)
    vision = named("patch_embed.proj", seen, (3, 2, 16, 16)) | {"pos_embed.weight": (PLACES, seen)}
    for number in range(depth):
        here = f"blocks.{number}"
        vision |= named(f"{here}.norm1", seen) | named(f"{here}.norm2", seen)
        vision |= named(f"{here}.attn.qkv", 3 * seen, seen) | named(f"{here}.attn.proj", seen, seen)
        vision |= named(f"{here}.mlp.linear_fc1", seen_inner, seen) | named(f"{here}.mlp.linear_fc2", seen, seen_inner)
    for name, norm in [("merger", seen), *((f"deepstack_merger_list.{n}", 4 * seen) for n in range(len(taps)))]:
        vision |= named(f"{name}.norm", norm) | named(f"{name}.linear_fc1", 4 * seen, 4 * seen)
        vision |= named(f"{name}.linear_fc2", wide, 4 * seen)
    last: Layout = {} if shared else {"lm_head.weight": (WORDS, wide)}
    return under("model.language_model", layout) | under("model.visual", vision) | last


def built_dino(size: str) -> PreTrainedModel:
    window, width, depths, heads, stages = SWIN[size]
    outputs: dict[str, Any] = {"out_features": [f"stage{stage}" for stage in stages]}
    backbone = SwinConfig(
        image_size=224 if size == "tiny" else 384,
        window_size=window,
        embed_dim=width,
        depths=depths,
        num_heads=heads,
        **outputs,
    )
    config = MMGroundingDinoConfig(backbone_config=backbone, num_feature_levels=len(stages) + 1)
    return MMGroundingDinoForObjectDetection(config)


def built_qwen(size: str) -> PreTrainedModel:
    (wide, layers, heads, key_heads, inner, shared), (seen, depth, seen_inner, taps) = QWEN3_VL[size]
    words = {
        "hidden_size": wide,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": 128,
        "intermediate_size": inner,
        "vocab_size": WORDS,
        "tie_word_embeddings": shared,
    }
    vision = {
        "hidden_size": seen,
        "depth": depth,
        "intermediate_size": seen_inner,
        "num_heads": 16,
        "out_hidden_size": wide,
        "num_position_embeddings": PLACES,
        "deepstack_visual_indexes": list(taps),
    }
    config = Qwen3VLConfig(text_config=words, vision_config=vision, tie_word_embeddings=shared)
    return Qwen3VLForConditionalGeneration(config)


def published_names(model: PreTrainedModel, shared: str = "") -> Layout:
    """A model's tensors under the hub's names, without tied duplicates."""
    state = {name: tensor for name, tensor in model.state_dict().items() if name != shared}
    return {name: tuple(tensor.shape) for name, tensor in revert_weight_conversion(model, state).items()}


@pytest.fixture(params=["tiny", "base", pytest.param("large", marks=pytest.mark.slow)])
def dino(request: pytest.FixtureRequest) -> Iterator[tuple[str, PreTrainedModel]]:
    with empty_weights():
        yield request.param, built_dino(request.param)


def test_detectors_match_published_checkpoints(dino: tuple[str, PreTrainedModel]) -> None:
    size, model = dino
    assert {tensor.device for tensor in model.parameters()} == {torch.device("meta")}
    ours, theirs = published_names(model), grounding_dino(size)
    # Swin's final normalisation is unused and missing from the files; it keeps its initial values.
    unused = {f"model.backbone.conv_encoder.model.swin.layernorm.{part}" for part in ("weight", "bias")}
    assert {name for name in ours if name not in theirs} <= unused
    assert {name for name in theirs if name not in ours} == set()
    assert {name: ours[name] for name in theirs} == theirs


@pytest.mark.parametrize("size", ["4B", pytest.param("8B", marks=pytest.mark.slow)])
def test_choosers_match_published_checkpoints(size: str) -> None:
    with empty_weights():
        model = built_qwen(size)
    assert published_names(model, "lm_head.weight" if size == "4B" else "") == qwen3_vl(size)


def test_size_in_bytes_matches_the_index_files() -> None:
    """Qwen3-VL-4B: 713 tensors in bfloat16, of which 315 are the vision tower's; 8B: its total size."""
    small, large = qwen3_vl("4B"), qwen3_vl("8B")
    seen = {name: shape for name, shape in small.items() if name.startswith("model.visual.")}
    assert (len(small), 2 * sum(map(prod, small.values()))) == (713, 8875631616)
    assert (len(seen), 2 * sum(map(prod, seen.values()))) == (315, 830695424)
    assert 2 * sum(map(prod, large.values())) == 17534247392
