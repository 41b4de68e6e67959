"""The published Molmo2 loads into the real class: every name and every shape, on the meta device.

The numbers and keys are those in the config.json of allenai/Molmo2-4B and -8B. The tensor names are those used by other
readers of the published files (OLMo-core's loader of Molmo2, Tenstorrent's tt-metal), not transformers' own; the number
of tensors is that of the 8B's model.safetensors.index.json, which has 8 more lines than entries. The index itself was
not available when this was written.
"""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Molmo2Config, Molmo2ForConditionalGeneration

from tests.trajseg.engines.grounded.test_layouts import Layout, named, published_names, square, under
from trajseg.model.weights import empty_weights

SIZES = {"4B": (2560, 9728, 4.8e9), "8B": (4096, 12288, 8.7e9)}
"""Width, inner width, and parameters, about."""


def published(width: int, inner: int) -> dict[str, Any]:
    return {
        "adapter_config": {
            "head_dim": 72,
            "hidden_size": 1152,
            "intermediate_size": inner,
            "model_type": "molmo2",
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "text_hidden_size": width,
            "vit_layers": [-3, -9],
        },
        "text_config": {
            "additional_vocab_size": 128,
            "head_dim": 128,
            "hidden_size": width,
            "intermediate_size": inner,
            "layer_norm_eps": 1e-06,
            "max_position_embeddings": 36864,
            "num_attention_heads": 32,
            "num_hidden_layers": 36,
            "num_key_value_heads": 8,
            "vocab_size": 151936,
        },
        "vit_config": {
            "head_dim": 72,
            "hidden_size": 1152,
            "image_default_input_size": [378, 378],
            "image_num_pos": 729,
            "image_patch_size": 14,
            "intermediate_size": 4304,
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "num_key_value_heads": 16,
        },
    }


@pytest.mark.parametrize("size", SIZES)
def test_the_published_configuration_builds_the_published_size(size: str) -> None:
    width, inner, parameters = SIZES[size]
    with empty_weights():
        model = Molmo2ForConditionalGeneration(Molmo2Config(**published(width, inner)))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    assert sum(tensor.numel() for tensor in model.parameters()) == pytest.approx(parameters, rel=0.02)
    # The two layers after the last used one are not published.
    assert model.config.to_dict()["vision_config"]["num_hidden_layers"] == 25
    assert model.config.to_dict()["adapter_config"]["vision_feature_layer"] == [24, 18]
    assert shapes["lm_head.weight"] == (151936, width)
    assert shapes["model.language_model.embed_tokens.weight"] == (151936 + 128, width)


def molmo2(width: int, inner: int) -> Layout:
    """The published files: 36 language layers, the 25 vision layers in use, and the parts between them."""
    heads, keys, head, seen, seen_inner = 32, 8, 128, 1152, 4304
    words: Layout = {"wte.embedding": (151936, width), "wte.new_embedding": (128, width), "ln_f.weight": (width,)}
    for number in range(36):
        here = f"blocks.{number}"
        words |= {f"{here}.attn_norm.weight": (width,), f"{here}.ff_norm.weight": (width,)}
        words |= {f"{here}.self_attn.{name}.weight": (head,) for name in ("q_norm", "k_norm")}
        words[f"{here}.self_attn.att_proj.weight"] = ((heads + 2 * keys) * head, width)
        words[f"{here}.self_attn.attn_out.weight"] = (width, heads * head)
        words[f"{here}.mlp.ff_proj.weight"] = (2 * inner, width)
        words[f"{here}.mlp.ff_out.weight"] = (width, inner)
    vision = named("patch_embedding", seen, 3 * 14 * 14) | {"positional_embedding": (729, seen)}
    for number in range(25):
        here = f"transformer.resblocks.{number}"
        vision |= named(f"{here}.attention_norm", seen) | named(f"{here}.ffn_norm", seen)
        vision |= square(f"{here}.attention", "wq", "wk", "wv", "wo", width=seen)
        vision |= named(f"{here}.feed_forward.w1", seen_inner, seen)
        vision |= named(f"{here}.feed_forward.w2", seen, seen_inner)
    between = named("image_pooling_2d.wo", seen, seen)
    for name in ("wq", "wk", "wv"):
        between |= named(f"image_pooling_2d.{name}", seen, 2 * seen)
    between |= {f"image_projector.{name}.weight": (inner, seen) for name in ("w1", "w3")}
    between["image_projector.w2.weight"] = (width, inner)
    backbone = under("image_vit", vision) | between
    return (
        {"lm_head.weight": (151936, width)}
        | under("model.transformer", words)
        | under("model.vision_backbone", backbone)
    )


@pytest.mark.parametrize("size", ["4B", pytest.param("8B", marks=pytest.mark.slow)])
def test_it_loads_what_was_published(size: str) -> None:
    width, inner, _ = SIZES[size]
    with empty_weights():
        model = Molmo2ForConditionalGeneration(Molmo2Config(**published(width, inner)))
    ours, theirs = published_names(model), molmo2(width, inner)
    assert len(theirs) == 706
    # The two embedding tables are joined on loading; the reverse splits them in halves.
    tables = ("model.transformer.wte.embedding", "model.transformer.wte.new_embedding")
    assert sum(ours.pop(name)[0] for name in tables) == sum(theirs.pop(name)[0] for name in tables)
    assert ours == theirs
