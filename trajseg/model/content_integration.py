"""Frame-level content integration: turns one trajectory token into one prompt per key frame.

An object's token attends to the features of every key frame (paper, section on frame-level content integration; six
layers of single-query cross attention, post-norm, no feed-forward).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class IntegrationLayer(nn.Module):
    """z <- LayerNorm(z + attention(z over X)), one query per row.

    The projections of keys and values are folded into the query and the output (exact for one query; the key
    bias cancels in the softmax), so that cells need not be projected. Parameters keep the names and shapes of
    `torch.nn.MultiheadAttention` followed by `LayerNorm`, under `0` and `1`, as published checkpoints have them.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.add_module("0", nn.MultiheadAttention(dim, heads, dropout=dropout))
        self.add_module("1", nn.LayerNorm(dim))

    def forward(self, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (R, C) queries, x (R, P, C) cells of each row's frame -> z (R, C), weights (R, heads, P)."""
        mha: nn.MultiheadAttention = self.get_submodule("0")  # type: ignore[assignment]
        rows, dim = z.shape
        head = dim // self.heads
        w_q, w_k, w_v = mha.in_proj_weight.view(3, self.heads, head, dim)
        b_q, _, b_v = mha.in_proj_bias.view(3, self.heads, head)
        query = torch.einsum("rc,hdc->rhd", z, w_q) + b_q
        folded = torch.einsum("rhd,hdc->rhc", query, w_k) * head**-0.5
        weights = torch.einsum("rhc,rpc->rhp", folded, x).softmax(-1)
        kept = torch.dropout(weights, self.dropout, self.training)
        value = torch.einsum("rhp,rpc->rhc", kept, x)
        value = torch.einsum("rhc,hdc->rhd", value, w_v) + b_v * kept.sum(-1, keepdim=True)
        attended = mha.out_proj(value.reshape(rows, dim))
        return self.get_submodule("1")(z + attended), weights


class ContentIntegration(nn.Module):
    """The stack of integration layers (`fusion_layers` in published checkpoints); with none, tokens are unchanged."""

    def __init__(self, dim: int, layers: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(IntegrationLayer(dim, heads) for _ in range(layers))

    def forward(self, q: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Adapts trajectory tokens to frames.

        Args:
            q: the trajectory token of each row (an object on a key frame), (R, C).
            x: top-level features of each row's frame, without memory, (R, P, C).

        Returns:
            prompts (R, C) and the last layer's attention (R, heads, P).
        """
        weights = x.new_zeros(x.shape[0], 1, x.shape[1])
        for layer in self.layers:
            q, weights = layer(q, x)
        return q, weights
