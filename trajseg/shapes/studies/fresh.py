"""A neutral starting checkpoint, with freshly initialised content integration or without it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from trajseg.data.samples import Sample
from trajseg.engines.trajseg import VideoSegmenter
from trajseg.errors import CheckpointError
from trajseg.model import TrajSegConfig, TrajSegModel
from trajseg.training.joint import JointTraining

RIDGE = 0.01
"""Ridge penalty, relative to the mean variance of a token's component."""


def fresh_start(checkpoint: str | Path, folder: Path, seed: int, integration: bool, samples: Sequence[Sample]) -> None:
    """Writes the starting checkpoint of a cell of the training study.

    Content integration is freshly initialised with `seed`, or removed. In both cases the head of the trajectory tokens
    is fitted by least squares: its token becomes the average prompt that the checkpoint's own content integration made
    from its token over the frames of `samples`. So the mask decoder gets prompts that it knows, without the frame's
    content. (With a randomly initialised head the decoder learns within 200 samples to ignore its prompt, and draws
    every object.)

    Args:
        checkpoint: a shipped checkpoint's name or a folder.
        folder: receives the new checkpoint.
        samples: grounding samples with targets; the same ones for all starts that are compared.

    Raises:
        CheckpointError: the checkpoint cannot be used, or has no content integration.
    """
    loaded = VideoSegmenter.from_pretrained(checkpoint, device="cpu")
    model, processor = loaded.model, loaded.processor
    if not model.config.integration_layers:
        raise CheckpointError(f"{checkpoint} has no content integration.", "Use a checkpoint that has it.")
    fit_head(model, *tokens_and_prompts(loaded, samples))
    layers = model.config.integration_layers if integration else 0
    torch.manual_seed(seed)
    fresh = TrajSegModel(TrajSegConfig.from_dict({**model.config.to_dict(), "integration_layers": layers}))
    kept = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("fusion_layers.")}
    fresh.load_state_dict(kept, strict=False)
    fresh.save_pretrained(folder)
    processor.save_pretrained(folder)


@torch.no_grad()
def tokens_and_prompts(loaded: VideoSegmenter, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """A model's trajectory tokens of all targets (n, C), and their mean prompts over frames that show them (n, C)."""
    model, processor = loaded.model, loaded.processor
    joint = JointTraining(model, processor, {}, lambda _: [])
    tokens, prompts = [], []
    for sample in samples:
        found = joint.read(sample)[1]
        drawn = model.prompts(found, model.encode_frames(processor.mask_pixels(sample.frames)))
        shown = torch.from_numpy(sample.masks).flatten(2).any(2)
        for token, each, seen in zip(found, drawn, shown, strict=True):
            if seen.any():
                tokens.append(token)
                prompts.append(each[seen].mean(0))
    return torch.stack(tokens), torch.stack(prompts)


@torch.no_grad()
def fit_head(model: TrajSegModel, tokens: Tensor, wanted: Tensor) -> None:
    """Maps the head's output from `tokens` (n, C) to `wanted` (n, C) by ridge regression."""
    x, y = tokens.double(), wanted.double()
    mean_x, mean_y = x.mean(0), y.mean(0)
    centred = x - mean_x
    penalty = RIDGE * centred.square().sum() / x.shape[1] * torch.eye(x.shape[1], dtype=x.dtype)
    # A single token has no variance: the head then returns the mean.
    slope = (torch.linalg.pinv(centred.T @ centred + penalty, hermitian=True) @ centred.T @ (y - mean_y)).T
    head: nn.Sequential = model.text_hidden_fcs[0]  # type: ignore[assignment]
    last: nn.Linear = head[-1]  # type: ignore[assignment]
    bias = slope @ (last.bias.double() - mean_x) + mean_y
    last.weight.copy_(slope @ last.weight.double())
    last.bias.copy_(bias)
