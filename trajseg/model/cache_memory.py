"""How many answers the language model can generate at once: each has its own key-value cache."""

from __future__ import annotations

import os
from typing import Any

import torch

SHARE = 0.5
"""Fraction of the free memory for caches; activations need the rest."""


def cache_bytes(text_config: Any, tokens: int, dtype: torch.dtype) -> int:
    """Bytes of one answer's key-value cache, for a prompt and an answer of `tokens` in total."""
    heads = getattr(text_config, "num_key_value_heads", None) or text_config.num_attention_heads
    width = getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads
    return int(2 * text_config.num_hidden_layers * heads * width * tokens * dtype.itemsize)


def free_bytes(device: torch.device) -> int:
    """Free memory of a device, including torch's own reserve."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        # Unknown on this system: assume a few GB.
        return 4 << 30


def answers_at_once(row_bytes: int, free: int, most: int) -> int:
    """How many answers fit, 1 to `most`; one is always tried."""
    return max(1, min(most, int(free * SHARE) // max(row_bytes, 1)))
