"""Attention over packed clips: every question attends to its clip's frames and to itself; nothing else is computed.

A packed row (see `packing.Packed`) has a clip's frames once and many questions, so only one in five pairs of its tokens
may attend to each other. It is registered with transformers under a name, which the language model's config selects.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from trajseg.shapes.recipe.packing import Packed
from trajseg.shapes.recipe.precision import plain_attention

NAME = "trajseg_packed"


@dataclass(frozen=True)
class Layout:
    """Where the questions of B packed rows of L tokens are; Q questions in all, of at most T tokens, P of frames.

    clip (Q,) int64, the row of each question; text (Q, T) int64, the positions of its tokens among all B x L (padded
    with its last one); barred (Q, 1, T, P + T) float32, -inf where a question's token must not attend to a token of the
    frames or of the question, else 0; source (B, L) int64, the position of each token's result among those of the
    frames' P columns and of the questions, B x P + Q x T.
    """

    clip: Tensor
    text: Tensor
    barred: Tensor
    source: Tensor
    frames: int

    @classmethod
    def of(cls, packed: Packed) -> Layout:
        """The layout of a batch, which may have no questions."""
        rows, length = packed.ids.shape
        in_frames = (packed.segments == -1).sum(1)
        widest = int(in_frames.max())
        at = (packed.segments.flatten() >= 0).nonzero()[:, 0]
        question = packed.segments.flatten()[at]
        sizes = torch.bincount(question)
        ends = sizes.cumsum(0)
        step = torch.arange(max(sizes.tolist(), default=0))
        text = at[torch.minimum((ends - sizes)[:, None] + step, ends[:, None] - 1)]
        clip = at[ends - 1] // length
        own = (step[:, None] < step).expand(len(text), -1, -1)
        beyond = (torch.arange(widest) >= in_frames[clip][:, None])[:, None].expand(-1, len(step), -1)
        source = torch.arange(length).clamp(max=widest - 1) + widest * torch.arange(rows)[:, None]
        source.view(-1)[at] = rows * widest + question * len(step) + torch.arange(len(at)) - (ends - sizes)[question]
        return cls(clip, text, _bars(torch.cat([beyond, own], dim=2))[:, None], source, widest)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, H, L, D) each -> (B, L, H, D). Results at padding are undefined."""
        rows, heads, length, width = query.shape

        def flat(x: Tensor) -> Tensor:
            return x.transpose(1, 2).reshape(-1, heads * width)

        def texts(x: Tensor) -> Tensor:
            own = flat(x).index_select(0, self.text.view(-1))
            return own.view(*self.text.shape, heads, width).transpose(1, 2)

        query_F, key_F, value_F = (x[:, :, : self.frames] for x in (query, key, value))
        later = torch.ones(self.frames, self.frames, dtype=torch.bool).triu(1)
        of_frames = plain_attention(query_F, key_F, value_F, _bars(later))
        keys = torch.cat([key_F.index_select(0, self.clip), texts(key)], dim=2)
        values = torch.cat([value_F.index_select(0, self.clip), texts(value)], dim=2)
        of_texts = plain_attention(texts(query), keys, values, self.barred)
        found = torch.cat([flat(of_frames), flat(of_texts)]).index_select(0, self.source.view(-1))
        return found.view(rows, length, heads, width)


def _bars(barred: Tensor) -> Tensor:
    return torch.zeros(barred.shape).masked_fill(barred, -torch.inf)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout,
    **_: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls; `layout` is passed through from the call of the language model."""
    # Under autocast, the rotary embedding returns float32.
    return layout.attend(query.to(value.dtype), key.to(value.dtype), value), None


ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)


@contextlib.contextmanager
def packed_attention(config: PreTrainedConfig) -> Iterator[None]:
    """Selects this attention in the configuration; the language model must then be called with a `layout`."""
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
