"""Qwen2-VL and Qwen2.5-VL instead of LLaVA: the visual tokens of their vision tower.

Their language model is used like any other: embeddings in, hidden states out, with consecutive positions (their own
code also counts rows and columns of a picture, which the released weights expect).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl")


def visual_tokens(model: Any, pixels: Tensor) -> Tensor:
    """Pictures (N, 3, s, s) -> visual tokens for the language model, (N, P, D), in raster order.

    Args:
        model: transformers' Qwen2_5_VLModel.
        pixels: normalised; s a multiple of the patch size times the merge size (14 x 2).
    """
    config = model.config.vision_config
    grid = pixels.shape[-1] // config.patch_size
    patches = as_patches(pixels, config.patch_size, config.spatial_merge_size, config.temporal_patch_size)
    grids = torch.tensor([[1, grid, grid]], device=pixels.device).expand(len(pixels), -1)
    tokens: tuple[Tensor, ...] = model.get_image_features(patches.flatten(0, 1), grids).pooler_output
    return torch.stack(tokens)


def as_patches(pixels: Tensor, patch: int, merge: int, times: int) -> Tensor:
    """Pictures (N, 3, s, s) -> patches (N, (s / patch)^2, 3 * times * patch^2); each picture is repeated `times` times.

    Patches that are merged into one token are adjacent.
    """
    frames, channels, side, _ = pixels.shape
    cells = side // patch // merge
    split = pixels.view(frames, channels, cells, merge, patch, cells, merge, patch).permute(0, 2, 5, 3, 6, 1, 4, 7)
    repeated = split.unsqueeze(-3).expand(*split.shape[:-2], times, patch, patch)
    return repeated.reshape(frames, (cells * merge) ** 2, -1)
