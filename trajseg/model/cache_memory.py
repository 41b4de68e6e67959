"""How many answers the language model can generate at once: each has its own key-value cache.

The number is estimated from the free memory; if that turns out to be too little, it is halved.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from accelerate.utils.memory import should_reduce_batch_size

from trajseg.model.device import free_unused

Row = TypeVar("Row")
Answered = TypeVar("Answered")

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


def in_batches(
    rows: Sequence[Row], size: int, work: Callable[[Sequence[Row]], Sequence[Answered]]
) -> Iterator[Answered]:
    """`work`'s results for rows in order, taken in batches of `size`; halved for the rest whenever memory runs out.

    Raises:
        RuntimeError: torch's, if memory is too short even for one row.
    """
    first = 0
    while first < len(rows):
        done: Sequence[Answered] | None = None
        try:
            done = work(rows[first : first + size])
        except RuntimeError as error:
            if size == 1 or not (isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)):
                raise
        if done is None:
            # Outside of the handler, where the failed attempt's tensors are not referred to any more.
            size = (min(size, len(rows) - first) + 1) // 2
            free_unused()
            continue
        yield from done
        first += len(done)
