"""Stage `vision`: both picture towers learn colours, shapes, sizes and places, before any language.

It stands for the pre-training that CLIP and SAM 2 bring along at full size. One convolutional trunk is trained for
both towers; CLIP's layers read it at stride 16, SAM 2's neck at all strides. The heads are thrown away afterwards,
except objectness and the boxes, which the language side uses.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trajseg.data.shapes.world import COLOURS, SHAPES, SIZES
from trajseg.model import TrajSegModel
from trajseg.training.clips import Pictures

ATTRIBUTE_SIZES = (len(COLOURS), len(SHAPES), len(SIZES))


class VisionPretraining(nn.Module):
    """The model's picture towers, sharing one trunk, with dense heads.

    The vision tower's patch tokens (256 of them) tell colour, shape, size and visible box of the object at a cell;
    SAM 2's top level tells colour, shape and size, and its finest level object or not, and colour.
    """

    def __init__(self, model: TrajSegModel) -> None:
        super().__init__()
        width = model.config.llava_config.vision_config.hidden_size
        channels = model.config.sam2_config.d_model
        self.tower = model.vision_tower
        self.encoder = model.visual_model.image_encoder
        self.tower.embeddings.patch_embedding.trunk.stages = self.encoder.trunk.stages[:4]
        self.objectness = model.objectness
        nn.init.constant_(self.objectness.bias, -3.0)
        self.token_attributes = nn.Linear(width, sum(ATTRIBUTE_SIZES))
        self.token_box = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 4))
        self.cell_attributes = nn.Conv2d(channels, sum(ATTRIBUTE_SIZES), 1)
        self.fine = nn.Conv2d(channels, 1 + len(COLOURS), 1)

    def forward(self, pixels: Tensor, every: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures (n, 3, S, S) -> patch tokens (n, P, V); of each `every`-th picture, SAM 2's levels.

        The levels are the top (m, C, h, w) and the finest (m, C, 4h, 4w).
        """
        maps = self.encoder.trunk(pixels)
        levels, _ = self.encoder.neck([level[::every] for level in maps])
        return self.tokens(maps[2]), levels[2], levels[0]

    def tokens(self, stride16: Tensor) -> Tensor:
        """The vision tower on a trunk map that is there already: the same as `TrajSegModel.patch_features`."""
        embeddings = self.tower.embeddings
        patches = embeddings.patch_embedding.project(stride16).flatten(2).transpose(1, 2)
        start = embeddings.class_embedding.expand(len(patches), 1, -1)
        hidden = torch.cat([start, patches], dim=1) + embeddings.position_embedding.weight
        hidden = self.tower.pre_layrnorm(hidden)
        for layer in self.tower.encoder.layers:
            hidden = layer(hidden, attention_mask=None)
        return hidden[:, 1:]

    def loss(self, clips: list[Pictures]) -> tuple[Tensor, dict[str, float]]:
        """The dense losses of both towers; SAM 2's levels, which learn faster and cost more, on every fourth."""
        pixels = torch.cat([clip.pixels for clip in clips])
        every = 4
        tokens, top, fine = self(pixels, every)
        side = top.shape[-1]
        targets = [dense_targets(clip, side) for clip in clips]
        owner, label, centre_heat, centre, box = (torch.cat(column) for column in zip(*targets, strict=True))
        on_object = owner.flatten(1) >= 0
        label = label.flatten(1, 2)
        figures: dict[str, float] = {}
        loss = _attribute_loss(self.token_attributes(tokens[on_object]), label[on_object], figures, "token")
        cells = self.cell_attributes(top).flatten(2).transpose(1, 2)[on_object[::every]]
        loss = loss + _attribute_loss(cells, label[::every][on_object[::every]], figures, "cell")
        heat_loss = _focal(self.objectness(tokens)[..., 0], centre_heat.flatten(1), centre.flatten(1))
        at = centre.flatten(1)
        box_error = F.l1_loss(self.token_box(tokens[at]), box.flatten(1, 2)[at])
        fine_loss = self._fine_loss(clips, fine, every)
        for name, part in (("heat", heat_loss), ("box", box_error), ("fine", fine_loss)):
            figures[name] = float(part.detach())
        return loss + heat_loss + 5.0 * box_error + fine_loss, figures

    def _fine_loss(self, clips: list[Pictures], fine: Tensor, every: int) -> Tensor:
        """Object or not and which colour, at a quarter of the resolution."""
        step = clips[0].ids.shape[-1] // fine.shape[-1]
        planes = [clip.ids[:, step // 2 :: step, step // 2 :: step].long() for clip in clips]
        colours = [F.pad(clip.attributes[:, 0], (1, 0))[plane] for clip, plane in zip(clips, planes, strict=True)]
        ids, colour = torch.cat(planes)[::every], torch.cat(colours)[::every]
        out = self.fine(fine)
        found = F.binary_cross_entropy_with_logits(out[:, 0], (ids > 0).float())
        return found + 0.3 * F.cross_entropy(out[:, 1:].permute(0, 2, 3, 1)[ids > 0], colour[ids > 0])


def dense_targets(clip: Pictures, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Targets of a grid of side x side cells over n letterboxed frames.

    Returns: owner (n, side, side) int64, the object that covers most of a cell and at least 0.3 of it, else -1; its
    attributes (n, side, side, 3); centre heat (n, side, side) in 0..1; centre (n, side, side) bool, the cells that
    hold the centre of an object's visible box; that box (n, side, side, 4) xyxy in units of the picture's side.
    """
    n, size, _ = clip.ids.shape
    planes = clip.planes
    coverage = F.avg_pool2d(planes, size // side)
    most, owner = coverage.max(dim=1)
    owner = torch.where(most >= 0.3, owner, -1)
    heat = torch.zeros(n, side, side)
    centre = torch.zeros(n, side, side, dtype=torch.bool)
    box = torch.zeros(n, side, side, 4)
    grid = torch.arange(side) + 0.5
    for frame, k, xyxy in visible_boxes(planes):
        x, y = (xyxy[0] + xyxy[2]) / 2 * side, (xyxy[1] + xyxy[3]) / 2 * side
        column, row = min(side - 1, int(x)), min(side - 1, int(y))
        bump = torch.exp(-((grid[None] - column - 0.5) ** 2 + (grid[:, None] - row - 0.5) ** 2) / (2 * 0.8**2))
        heat[frame] = torch.maximum(heat[frame], bump)
        centre[frame, row, column] = True
        box[frame, row, column] = xyxy
        owner[frame, row, column] = k
    return owner, clip.attributes[owner.clamp(min=0)], heat, centre, box


def visible_boxes(planes: Tensor, least: int = 40) -> Iterator[tuple[int, int, Tensor]]:
    """(frame, object, xyxy in units of the side) of each object of at least `least` pixels in planes (n, K, S, S)."""
    size = planes.shape[-1]
    rows, columns = planes.amax(3), planes.amax(2)
    area = planes.sum((2, 3))
    for frame, k in (area >= least).nonzero().tolist():
        y, x = rows[frame, k].nonzero()[:, 0], columns[frame, k].nonzero()[:, 0]
        yield frame, k, torch.tensor([x[0], y[0], x[-1] + 1, y[-1] + 1]) / size


def _attribute_loss(logits: Tensor, label: Tensor, figures: dict[str, float], prefix: str) -> Tensor:
    total = logits.new_zeros(())
    for number, (name, part) in enumerate(
        zip(("colour", "shape", "size"), logits.split(ATTRIBUTE_SIZES, dim=-1), strict=True)
    ):
        total = total + F.cross_entropy(part, label[:, number])
        figures[f"{prefix}_{name}"] = float((part.argmax(-1) == label[:, number]).float().mean())
    return total


def _focal(logits: Tensor, heat: Tensor, centre: Tensor) -> Tensor:
    """Penalty-reduced focal loss of CenterNet (Zhou et al. 2019, eq. 1), a mean over the centres."""
    p = logits.sigmoid()
    positive = (1 - p) ** 2 * F.logsigmoid(logits) * centre
    negative = (1 - heat) ** 4 * p**2 * F.logsigmoid(-logits) * ~centre
    return -(positive.sum() + negative.sum()) / centre.sum().clamp(min=1)
