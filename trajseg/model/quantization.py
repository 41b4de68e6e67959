"""4-bit base weights of the language model, so that adapters can be trained on a 24 GB card."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from trajseg.errors import TrajSegError

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

    from trajseg.model.modeling import TrajSegModel

BITS_PER_WEIGHT = 4 + 8 / 64 + 32 / (64 * 256)
"""Bits per weight: NF4 with double quantisation (QLoRA), an 8-bit scale per 64 weights, a float32 per 256 scales."""


def four_bit_config(compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    """QLoRA's settings: NF4, scales quantised as well, products in `compute_dtype`.

    Raises:
        TrajSegError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise TrajSegError(
            "4-bit weights need bitsandbytes, which is not installed.",
            "Run: pip install bitsandbytes, or load the model in bfloat16.",
        )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def make_four_bit(model: TrajSegModel, compute_dtype: torch.dtype) -> None:
    """Replaces the weights of the language model's layers by 4-bit ones, which the next `fill` packs; the model is
    still empty.

    Embeddings, norms, lm_head and everything outside of the language model keep their precision. The weights are
    frozen: train adapters over them.

    Raises:
        TrajSegError: bitsandbytes is not installed.
    """
    config = four_bit_config(compute_dtype)
    from transformers.integrations import replace_with_bnb_linear  # type: ignore[attr-defined]

    replace_with_bnb_linear(model.language_model.layers, [], config)
