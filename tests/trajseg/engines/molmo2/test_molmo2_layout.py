"""The published configurations of Molmo2 build the real class at its published size, on the meta device.

The numbers are those of the config.json of allenai/Molmo2-4B and -8B, with the keys as they stand there. Names of
tensors could not be compared: no index of the published files could be read where this was written.
"""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Molmo2Config, Molmo2ForConditionalGeneration

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
    # The two layers after the last one that is read are not published.
    assert model.config.vision_config.num_hidden_layers == 25
    assert model.config.adapter_config.vision_feature_layer == [24, 18]
    assert shapes["lm_head.weight"] == (151936, width)
    assert shapes["model.language_model.embed_tokens.weight"] == (151936 + 128, width)
