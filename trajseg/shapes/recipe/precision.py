"""Fast computation of the model's layers: bfloat16, on CPUs with native support."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

FAST_BFLOAT16 = torch.cpu._is_avx512_bf16_supported()
"""Whether this CPU multiplies bfloat16 natively, which is two to three times as fast as float32."""


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """Convolutions and matrix products in bfloat16 if the CPU is fast at them; otherwise unchanged.

    Weights, sums within a product and the statistics of GroupNorm and LayerNorm stay float32. Compute losses outside of
    it.
    """
    if not FAST_BFLOAT16 or torch.get_default_device().type != "cpu":
        yield
        return
    with torch.autocast("cpu", dtype=torch.bfloat16), _PlainAttention():
        yield


class _PlainAttention(TorchFunctionMode):
    """Attention as two products around a softmax: PyTorch's fused kernel is slower in bfloat16, mainly backwards."""

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (plain_attention if func is F.scaled_dot_product_attention else func)(*args, **(kwargs or {}))


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """`scaled_dot_product_attention` without dropout; the mask is added to the scores, in float32."""
    if (attn_mask is not None and attn_mask.dtype == torch.bool) or dropout_p or is_causal:
        raise NotImplementedError("Fast attention supports neither a custom mask nor dropout.")
    scores = query * (query.shape[-1] ** -0.5 if scale is None else scale) @ key.transpose(-1, -2)
    if attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1).to(value.dtype) @ value
