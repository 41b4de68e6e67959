"""The number of concurrent answers is bounded by memory."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from trajseg.model import TrajSegConfig
from trajseg.model.cache_memory import answers_at_once, cache_bytes, free_bytes, in_batches


def test_a_full_size_cache_is_as_large_as_it_was_measured() -> None:
    """Eight captions of a 7B model over ten frames took 11 GB of cache in bf16, about 2,600 tokens each."""
    text = TrajSegConfig.full_size().llava_config.text_config
    row = cache_bytes(text, 2600, torch.bfloat16)
    assert 10 < 8 * row / 2**30 < 12
    assert answers_at_once(row, 40 << 30, most=8) == 8
    assert answers_at_once(row, 8 << 30, most=8) == 3, "beside a 15 GB model on a 24 GB card"
    assert answers_at_once(row, 1 << 20, most=8) == 1


def test_grouped_heads_count_and_a_machine_says_what_is_free() -> None:
    text = TrajSegConfig.tiny(vocab_size=8, seg_token_id=4).llava_config.text_config
    whole = cache_bytes(text, 100, torch.float32)
    assert whole == 2 * 6 * 128 * 100 * 4
    text.num_key_value_heads = 2
    assert cache_bytes(text, 100, torch.float32) == whole // 2
    assert free_bytes(torch.device("cpu")) > 0


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: 9 bytes."),
    ],
)
def test_a_batch_is_halved_until_it_fits_and_only_if_memory_was_the_reason(error: RuntimeError) -> None:
    sizes: list[int] = []

    def work(rows: Sequence[int], most: int = 2) -> list[int]:
        sizes.append(len(rows))
        if len(rows) > most:
            raise error
        return [row * row for row in rows]

    assert list(in_batches(range(7), 5, work)) == [0, 1, 4, 9, 16, 25, 36]
    assert sizes == [5, 3, 2, 2, 2, 1]
    with pytest.raises(RuntimeError, match="memory"):
        list(in_batches(range(7), 5, lambda rows: work(rows, most=0)))
    assert sizes[-1] == 1

    def broken(rows: Sequence[int]) -> list[int]:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        list(in_batches(range(7), 5, broken))
