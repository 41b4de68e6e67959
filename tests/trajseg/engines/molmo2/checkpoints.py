"""A tiny Molmo2 of the real class, saved in a folder as the hub's is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch.nn import functional as F
from transformers import (
    Molmo2Config,
    Molmo2ForConditionalGeneration,
    Molmo2ImageProcessor,
    Molmo2Processor,
    Molmo2VideoProcessor,
    PreTrainedTokenizerFast,
)

from trajseg.engines.molmo2.pointer import Molmo2Pointer
from trajseg.engines.molmo2.settings import Molmo2Settings

SIDE, PATCH, WIDTH = 42, 14, 64
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<im_start>",
    "<im_end>",
    "<im_patch>",
    "<im_col>",
    "<low_res_im_start>",
    "<frame_start>",
    "<frame_end>",
    "<im_low>",
    "<|image|>",
    "<|video|>",
)
TEMPLATE = """{%- for message in messages -%}
{%- for part in message.content if part.type != 'text' -%}<|{{ part.type }}|>{%- endfor -%}
<|im_start|>{{ message.role }}
{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""
"""ChatML with the pictures first, like Molmo2's template."""
WORDS = ["user", "assistant", "Track", "the", "red", "green", "square", "There", "are", "none", "tracks", "coords"]
TRACKED = '<tracks coords="0.0 1 125 250;0.5 1 450 250">square</tracks>'
NONE = "There are none."


def tokenizer() -> PreTrainedTokenizerFast:
    """Some words, and single characters for everything else."""
    printable = [chr(code) for code in range(32, 127)]
    pieces = dict.fromkeys(["<unk>", *SPECIAL, "\n", "\t", *printable, *WORDS, *(f" {word}" for word in WORDS)])
    backend = Tokenizer(WordLevel({piece: index for index, piece in enumerate(pieces)}, unk_token="<unk>"))
    words = "|".join(sorted(WORDS, key=len, reverse=True))
    backend.pre_tokenizer = Split(Regex(rf" ?\b(?:{words})\b|\n|."), behavior="isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<|im_end|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def processor() -> Molmo2Processor:
    """Frames of 3 x 3 patches, pooled to one token; pictures of one crop."""
    size = {"height": SIDE, "width": SIDE}
    return Molmo2Processor(
        image_processor=Molmo2ImageProcessor(
            size=size, patch_size=PATCH, pooling_size=[2, 2], max_crops=1, overlap_margins=[0, 0]
        ),
        video_processor=Molmo2VideoProcessor(size=size, patch_size=PATCH, pooling_size=[3, 3]),
        tokenizer=tokenizer(),
        chat_template=TEMPLATE,
    )


def config() -> Molmo2Config:
    """Every part of the real one."""
    words = tokenizer()
    vocabulary = len(words)

    def number(token: str) -> int:
        number = words.convert_tokens_to_ids(token)
        assert isinstance(number, int)
        return number

    return Molmo2Config(
        text_config={
            "vocab_size": vocabulary,
            "additional_vocab_size": 0,
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "initializer_range": 0.05,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "image_size": [SIDE, SIDE],
            "patch_size": PATCH,
        },
        adapter_config={
            "vision_feature_layer": [1, 0],
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "intermediate_size": 64,
            "text_hidden_size": WIDTH,
        },
        image_start_token_id=number("<im_start>"),
        low_res_image_start_token_id=number("<low_res_im_start>"),
        image_end_token_id=number("<im_end>"),
        image_patch_id=number("<im_patch>"),
        frame_start_token_id=number("<frame_start>"),
        frame_end_token_id=number("<frame_end>"),
        tie_word_embeddings=False,
    )


def save_molmo2(folder: Path, known: Mapping[str, str] | None = None) -> Path:
    """A Molmo2 with its processor: random, or overfitted to given answers.

    Args:
        known: its answer by instruction, regardless of the pictures.
    """
    torch.manual_seed(0)
    model = Molmo2ForConditionalGeneration(config())
    model.generation_config.eos_token_id = tokenizer().eos_token_id
    if known:
        _learn(model, known)
    model.save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder


def _learn(model: Any, known: Mapping[str, str]) -> None:
    pointer = Molmo2Pointer(model, processor(), Molmo2Settings())
    words = pointer.processor.tokenizer
    pictures = np.full((2, 64, 96, 3), 90, np.uint8)
    examples = []
    for instruction, answer in known.items():
        inputs = dict(pointer.inputs(pictures, [0.0, 0.5], instruction))
        asked = inputs["input_ids"].shape[1]
        told = torch.tensor([[*words(answer, add_special_tokens=False)["input_ids"], words.eos_token_id]])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], told], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if "mm_token_type_ids" in inputs:
            inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(told)], 1)
        examples.append((inputs, asked, told[0]))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(200):
        losses = []
        for inputs, asked, told in examples:
            logits = model(**inputs).logits[0, asked - 1 : -1]
            losses.append(F.cross_entropy(logits, told))
        loss = torch.stack(losses).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if loss.item() < 0.02:
            return
    raise AssertionError(f"The answers were not learned: a loss of {loss.item():.3f} remains.")
