"""Stages compute in bfloat16 if that is fast, with the same result."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from trajseg.model import TrajSegConfig, TrajSegModel
from trajseg.shapes.recipe import precision
from trajseg.shapes.recipe.clips import pictures
from trajseg.shapes.recipe.masks import MaskTraining
from trajseg.shapes.recipe.precision import quick
from trajseg.shapes.recipe.vision import VisionPretraining
from trajseg.shapes.world.scenes import sample_scene


def outcome(module: MaskTraining | VisionPretraining, *batch: Any) -> tuple[float, torch.Tensor]:
    """The loss of a batch, and its gradient as one vector."""
    module.zero_grad()
    loss, _ = module.loss(*batch)
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


@pytest.mark.parametrize("training", [VisionPretraining, MaskTraining])
def test_a_step_has_the_loss_and_the_gradient_that_it_has_in_float32(
    monkeypatch: pytest.MonkeyPatch, training: Callable[[TrajSegModel], Any]
) -> None:
    torch.manual_seed(0)
    module = training(TrajSegModel(TrajSegConfig.tiny(300, 259)).eval())
    clips = [pictures(sample_scene(5), [0, 2, 4, 6], 256, light=random.Random(0))]
    results = []
    for fast in (False, True):
        monkeypatch.setattr(precision, "FAST_BFLOAT16", fast)
        rest = () if training is VisionPretraining else (["key", "carried", "prompted", "key"], random.Random(0), 1)
        results.append(outcome(module, clips, *rest))
    (exact, direction), (loss, gradient) = results
    assert loss != exact
    assert loss == pytest.approx(exact, rel=2e-3)
    assert float(F.cosine_similarity(gradient, direction, dim=0)) > 0.99


def test_quick_attention_is_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "FAST_BFLOAT16", True)
    query, key, value = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    exact = F.scaled_dot_product_attention(query, key, value, scale=0.5)
    with quick():
        found = F.scaled_dot_product_attention(query, key, value, scale=0.5)
        assert found.dtype == torch.bfloat16
        with pytest.raises(NotImplementedError):
            F.scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(found.float(), exact, atol=0.03, rtol=0)
    torch.testing.assert_close(precision.plain_attention(query, key, value, scale=0.5), exact)
    barred = torch.zeros(5, 7).masked_fill(torch.rand(5, 7) > 0.8, -torch.inf)
    exact = F.scaled_dot_product_attention(query, key, value, attn_mask=barred)
    torch.testing.assert_close(precision.plain_attention(query, key, value, barred), exact)


def test_a_cpu_without_fast_bfloat16_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "FAST_BFLOAT16", False)
    with quick():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
