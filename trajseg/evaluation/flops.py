"""Floating-point operations of a model's run, counted by torch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def count_flops(run: Callable[[], object]) -> float | None:
    """Floating-point operations of `run`, two per multiply-add; None if torch is not in use.

    Matrix products, convolutions and attention are counted; element-wise operations are not. Counting takes time, so
    measure seconds in another run.
    """
    if "torch" not in sys.modules:
        return None
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    # torch's own table only has the attention kernels of GPUs.
    on_cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        run()
    return float(counter.get_total_flops())
