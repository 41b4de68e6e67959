"""The precision in which stages run the model's layers."""

from __future__ import annotations

import torch

FAST_BFLOAT16 = torch.cpu._is_avx512_bf16_supported()
"""Whether this CPU multiplies bfloat16 numbers by itself, which is about three times as fast as float32."""


def quick() -> torch.autocast:
    """Convolutions and products of matrices in bfloat16, where the CPU is fast at them; all else as it was.

    Weights, sums within a product and the statistics of norms stay float32. Losses belong outside.
    """
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=FAST_BFLOAT16)
