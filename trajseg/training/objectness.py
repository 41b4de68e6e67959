"""Objectness losses: train a small vision tower to choose the patch tokens that the language model reads.

The choice itself has no gradient, so a tower that overlooks the objects of a new look would never learn to see them.
Where a sample shows a target, its centre's cell is trained to be chosen. Corrected clips have only the masks of some
objects, so nothing is known about their other cells, which keep the objectness that they had before training. Where all
objects are known, other cells are trained not to be chosen.

Shapes: T frames, S targets, P patches of side x side cells, V width of the vision tower.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from trajseg.data.samples import boxes_of
from trajseg.model import TrajSegModel

LEAST = 20
"""Pixels of a target's mask from which its centre is used."""
SPREAD = 0.8
"""Standard deviation of the heat around a centre, in cells."""


class ObjectnessLoss:
    """The loss for a model with `object_tokens`; it stores the model's objectness before training.

    Args:
        model: before the first step.
    """

    def __init__(self, model: TrajSegModel) -> None:
        self.model = model
        self._tower = copy.deepcopy(model.vision_tower).requires_grad_(False).eval()
        self._objectness = copy.deepcopy(model.objectness).requires_grad_(False)

    @torch.no_grad()
    def before(self, pixels: Tensor) -> Tensor:
        """The objectness of each cell before training, 0 to 1: pixels (T, 3, s, s) -> (T, P)."""
        states = self._tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        return self._objectness(self.model.features(states))[..., 0].sigmoid()

    def __call__(self, before: Tensor, features: Tensor, masks: Tensor) -> Tensor:
        """The loss of a sample, a scalar: a mean over the targets' centres.

        Args:
            before: the output of `before` for the same frames, (T, P).
            features: the vision tower's present output for them, (T, P, V).
            masks: of the targets, bool (S, T, H, W).
        """
        logits = self.model.objectness(features)[..., 0]
        centre = centres(masks, math.isqrt(logits.shape[1])).to(logits.device)
        p = logits.sigmoid()
        taught = -((1 - p) ** 2 * F.logsigmoid(logits))[centre].sum()
        kept = (p - before).square()[~centre].sum()
        return (taught + kept) / centre.sum().clamp(min=1)


def focal_loss(logits: Tensor, heat: Tensor, centre: Tensor) -> Tensor:
    """Penalty-reduced focal loss of CenterNet (Zhou et al. 2019, eq. 1), a mean over the centres.

    Args:
        logits, heat: any shape; heat is in 0 to 1, high near a centre.
        centre: bool, the same shape.
    """
    p = logits.sigmoid()
    positive = (1 - p) ** 2 * F.logsigmoid(logits) * centre
    negative = (1 - heat) ** 4 * p**2 * F.logsigmoid(-logits) * ~centre
    return -(positive.sum() + negative.sum()) / centre.sum().clamp(min=1)


def known_objects_loss(logits: Tensor, objects: Tensor) -> Tensor:
    """The focal loss of objectness logits (T, P) where all objects are known: uint8 (T, H, W), see Sample.objects."""
    side = math.isqrt(logits.shape[1])
    planes = torch.stack([objects == k for k in objects.unique().tolist() if k] or [objects > 0])
    centre = centres(planes, side)
    heat = heat_around(centre.view(-1, side, side)).flatten(1)
    return focal_loss(logits, heat.to(logits.device), centre.to(logits.device))


def heat_around(centre: Tensor) -> Tensor:
    """The heat of the focal loss, float32 (T, side, side): 1 at centres, bool (T, side, side), and less around them."""
    heat = torch.zeros(centre.shape)
    cells = torch.arange(centre.shape[-1])
    for frame, row, column in centre.nonzero().tolist():
        squared = (cells[None] - column) ** 2 + (cells[:, None] - row) ** 2
        heat[frame] = torch.maximum(heat[frame], torch.exp(-squared / (2 * SPREAD**2)))
    return heat


def centres(masks: Tensor, side: int) -> Tensor:
    """The cells with the centres of targets' boxes: masks bool (S, T, H, W) -> bool (T, side * side)."""
    frames = masks.shape[1]
    cells = torch.zeros(frames, side, side, dtype=torch.bool)
    for target in masks.cpu():
        boxes = torch.from_numpy(boxes_of(target.numpy()))
        area = target.flatten(1).sum(1)
        middle = ((boxes[:, :2] + boxes[:, 2:]) / 2 * side).long().clamp(max=side - 1)
        for frame in (area >= LEAST).nonzero()[:, 0].tolist():
            column, row = middle[frame].tolist()
            cells[frame, row, column] = True
    return cells.flatten(1)
