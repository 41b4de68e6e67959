"""Qwen2.5-VL-7B and Qwen3.5-9B as choosers: the real classes have the tensors of the published checkpoints.

The tables do not come from transformers' classes: sizes are from the published config.json, which is passed to the
class unchanged, and names are those in the files. The bytes of Qwen2.5-VL-7B are those of its
model.safetensors.index.json; no index of Qwen3.5-9B was available. See test_layouts.py.
"""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
)

from tests.trajseg.engines.grounded.test_layouts import Layout, named, published_names, under
from trajseg.model.weights import empty_weights


def qwen2_5_vl_7b() -> Layout:
    wide, inner, seen, seen_inner = 3584, 18944, 1280, 3420
    words: Layout = {"embed_tokens.weight": (152064, wide), "norm.weight": (wide,)}
    for number in range(28):
        here = f"layers.{number}"
        words |= {f"{here}.{name}.weight": (wide,) for name in ("input_layernorm", "post_attention_layernorm")}
        words |= named(f"{here}.self_attn.q_proj", wide, wide)
        words |= named(f"{here}.self_attn.k_proj", 512, wide) | named(f"{here}.self_attn.v_proj", 512, wide)
        words[f"{here}.self_attn.o_proj.weight"] = (wide, wide)
        words |= {f"{here}.mlp.{name}.weight": (inner, wide) for name in ("gate_proj", "up_proj")}
        words[f"{here}.mlp.down_proj.weight"] = (wide, inner)
    vision: Layout = {"patch_embed.proj.weight": (seen, 3, 2, 14, 14), "merger.ln_q.weight": (seen,)}
    vision |= named("merger.mlp.0", 4 * seen, 4 * seen) | named("merger.mlp.2", wide, 4 * seen)
    for number in range(32):
        here = f"blocks.{number}"
        vision |= {f"{here}.norm1.weight": (seen,), f"{here}.norm2.weight": (seen,)}
        vision |= named(f"{here}.attn.qkv", 3 * seen, seen) | named(f"{here}.attn.proj", seen, seen)
        vision |= named(f"{here}.mlp.gate_proj", seen_inner, seen) | named(f"{here}.mlp.up_proj", seen_inner, seen)
        vision |= named(f"{here}.mlp.down_proj", seen, seen_inner)
    return under("model", words) | under("visual", vision) | {"lm_head.weight": (152064, wide)}


QWEN2_5_VL_7B: dict[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 128000,
    "max_window_layers": 28,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"},
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "vocab_size": 152064,
    "vision_config": {"hidden_size": 1280, "in_chans": 3, "model_type": "qwen2_5_vl", "spatial_patch_size": 14},
}
"""The published config.json, with its flat structure."""


def test_qwen2_5_vl_matches_the_published_checkpoint() -> None:
    with empty_weights():
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**QWEN2_5_VL_7B))
    assert published_names(model) == qwen2_5_vl_7b()


def test_size_in_bytes_matches_the_index_file() -> None:
    layout = qwen2_5_vl_7b()
    assert (len(layout), 2 * sum(map(prod, layout.values()))) == (729, 16584333312)


def qwen3_5_9b_words() -> Layout:
    """Three layers of linear attention, then one of full attention with a gate on its output."""
    wide, inner, keys, values, full = 4096, 12288, 16 * 128, 32 * 128, 16 * 256
    words: Layout = {"embed_tokens.weight": (248320, wide), "norm.weight": (wide,)}
    for number in range(32):
        here = f"layers.{number}"
        words |= {f"{here}.{name}.weight": (wide,) for name in ("input_layernorm", "post_attention_layernorm")}
        words |= {f"{here}.mlp.{name}.weight": (inner, wide) for name in ("gate_proj", "up_proj")}
        words[f"{here}.mlp.down_proj.weight"] = (wide, inner)
        if number % 4 == 3:
            words[f"{here}.self_attn.q_proj.weight"] = (2 * full, wide)
            words |= {f"{here}.self_attn.{name}.weight": (4 * 256, wide) for name in ("k_proj", "v_proj")}
            words |= {f"{here}.self_attn.{name}.weight": (256,) for name in ("q_norm", "k_norm")}
            words[f"{here}.self_attn.o_proj.weight"] = (wide, full)
            continue
        words |= {
            f"{here}.linear_attn.A_log": (32,),
            f"{here}.linear_attn.dt_bias": (32,),
            f"{here}.linear_attn.conv1d.weight": (2 * keys + values, 1, 4),
            f"{here}.linear_attn.in_proj_qkv.weight": (2 * keys + values, wide),
            f"{here}.linear_attn.in_proj_z.weight": (values, wide),
            f"{here}.linear_attn.in_proj_a.weight": (32, wide),
            f"{here}.linear_attn.in_proj_b.weight": (32, wide),
            f"{here}.linear_attn.norm.weight": (128,),
            f"{here}.linear_attn.out_proj.weight": (wide, values),
        }
    return under("model.language_model", words)


def test_qwen3_5_matches_the_published_checkpoint() -> None:
    text = {
        "attn_output_gate": True,
        "full_attention_interval": 4,
        "head_dim": 256,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 8,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_value_head_dim": 128,
        "num_attention_heads": 16,
        "num_hidden_layers": 32,
        "num_key_value_heads": 4,
        "vocab_size": 248320,
    }
    vision = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096}
    with empty_weights():
        model = Qwen3_5ForConditionalGeneration(
            Qwen3_5Config(text_config=text, vision_config=vision, tie_word_embeddings=False)
        )
    ours = published_names(model)
    words = {name: shape for name, shape in ours.items() if name.startswith("model.language_model.")}
    assert words == qwen3_5_9b_words()
    assert ours["lm_head.weight"] == (248320, 4096)
    assert sum(map(prod, ours.values())) == pytest.approx(9.4e9, rel=0.02)
