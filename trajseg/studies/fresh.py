"""A fresh start: a checkpoint whose head of the trajectory tokens and content integration are drawn anew."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from trajseg.errors import CheckpointError
from trajseg.model import TrajSegConfig, TrajSegModel
from trajseg.segmenter import VideoSegmenter
from trajseg.training.joint import JointTraining
from trajseg.training.samples import Sample

DRAWN_ANEW = ("text_hidden_fcs.", "fusion_layers.")


def fresh_start(checkpoint: str | Path, folder: Path, seed: int, integration: bool, samples: list[Sample]) -> None:
    """Writes a checkpoint from which a cell of the training study begins.

    All starts of one seed have the same weights, except that one without content integration has none of its layers:
    the trajectory token itself is then the prompt. The head's outputs are scaled to a mean square of 1 over `samples`,
    which is what the mask decoder was taught with: content integration ends in a normalisation. Without this a token
    that is a prompt itself would begin with a prompt that is too faint to matter.

    Args:
        checkpoint: a shipped checkpoint's name or a folder.
        folder: receives the new checkpoint.
        seed: of the new weights.
        integration: whether the new one has content integration.
        samples: of grounding or captioning, with targets.

    Raises:
        CheckpointError: the checkpoint cannot be used, or has no content integration itself.
    """
    old = VideoSegmenter.from_pretrained(checkpoint, device="cpu")
    if not old.model.config.integration_layers:
        raise CheckpointError(f"{checkpoint} has no content integration.", "Take a checkpoint that has it.")
    settings = old.model.config.to_dict()
    # Drawn whole, with all of its layers, so that the draw is the same in either case.
    torch.manual_seed(seed)
    model = TrajSegModel(TrajSegConfig.from_dict(settings)).eval()
    kept = {name: tensor for name, tensor in old.model.state_dict().items() if not name.startswith(DRAWN_ANEW)}
    model.load_state_dict(kept, strict=False)
    scale_head(model, old, samples)
    if not integration:
        smaller = TrajSegModel.skeleton(TrajSegConfig.from_dict({**settings, "integration_layers": 0}))
        left = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("fusion_layers.")}
        smaller.load_state_dict(left, assign=True)
        model = smaller
    model.save_pretrained(folder)
    old.processor.save_pretrained(folder)


@torch.no_grad()
def scale_head(model: TrajSegModel, like: VideoSegmenter, samples: list[Sample]) -> None:
    """Scales the last layer of the trajectory tokens' head: mean square 1 of the tokens of `samples`."""
    joint = JointTraining(model, like.processor, {}, lambda _: [])
    tokens = torch.cat([joint.read(sample)[1] for sample in samples])
    head: nn.Sequential = model.text_hidden_fcs[0]  # type: ignore[assignment]
    for parameter in head[-1].parameters():
        parameter.div_(tokens.square().mean().sqrt())
