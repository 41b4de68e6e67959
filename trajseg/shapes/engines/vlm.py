"""A tiny Qwen3-VL: its tokenizer of whole words, its processor and its configuration."""

from __future__ import annotations

import re
from string import ascii_lowercase
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from trajseg.engines.grounded.grammar import VERDICTS
from trajseg.shapes.world.phrases import vocabulary

PORTRAIT = 64
"""Side of a portrait in pixels: 4 x 4 patches, merged into 2 x 2 tokens."""
TOKENS = 4
WIDTH = 128
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TEMPLATE = """{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content -%}
{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}
{%- endfor %}{% endif %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""
"""ChatML, as in Qwen's templates."""


def tokenizer() -> PreTrainedTokenizerFast:
    """Whole words and numbers, each with the preceding space, so that decoding restores the exact text."""
    plain = [*vocabulary(), *VERDICTS, *(str(number) for number in range(201))]
    plain += re.findall(
        r"\w+", "user assistant which is meant describe phrases of path size moved way reach caption object"
    )
    # Any text can be spelled, as with a byte-level tokenizer.
    plain += ascii_lowercase
    marks = list("{}[]\":,./?;-()'")
    pieces = dict.fromkeys(["<unk>", *SPECIAL, "\n", " "])
    for word in [*plain, *marks]:
        pieces |= {word: None, f" {word}": None}
    backend = Tokenizer(WordLevel({piece: index for index, piece in enumerate(pieces)}, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    pattern = r" ?[a-z']+| ?[0-9]+|\n| ?[^\sa-z0-9]| "
    backend.pre_tokenizer = Split(Regex(pattern), behavior="isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def processor() -> Qwen3VLProcessor:
    """Pictures of at most PORTRAIT x PORTRAIT pixels, in patches of 16."""
    sizes: dict[str, Any] = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}
    sizes |= {"size": {"shortest_edge": 32 * 32, "longest_edge": PORTRAIT * PORTRAIT}}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**sizes, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        tokenizer=tokenizer(),
        video_processor=Qwen3VLVideoProcessor(**sizes),
        chat_template=TEMPLATE,
    )


def config() -> Qwen3VLConfig:
    """About 2 million parameters."""
    words = tokenizer()
    ids = {token: words.convert_tokens_to_ids(token) for token in SPECIAL}
    return Qwen3VLConfig(
        text_config={
            "vocab_size": len(words),
            "hidden_size": WIDTH,
            "intermediate_size": 3 * WIDTH,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 32,
            "max_position_embeddings": 2048,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "pad_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "initializer_range": 0.04,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 96,
            "intermediate_size": 288,
            "num_heads": 4,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": WIDTH,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [],
            "initializer_range": 0.04,
        },
        image_token_id=ids["<|image_pad|>"],  # type: ignore[arg-type]
        video_token_id=ids["<|video_pad|>"],  # type: ignore[arg-type]
        vision_start_token_id=ids["<|vision_start|>"],  # type: ignore[arg-type]
        vision_end_token_id=ids["<|vision_end|>"],  # type: ignore[arg-type]
        tie_word_embeddings=True,
    )


def fresh() -> Qwen3VLForConditionalGeneration:
    """A model with random weights."""
    model = Qwen3VLForConditionalGeneration(config())
    model.generation_config.eos_token_id = model.config.text_config.eos_token_id  # type: ignore[union-attr]
    model.generation_config.pad_token_id = model.config.text_config.pad_token_id  # type: ignore[union-attr]
    return model
