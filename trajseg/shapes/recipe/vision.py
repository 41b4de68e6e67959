"""Stages `vision` and `tower`: the vision towers learn colours, shapes, sizes and positions, before any language.

They replace the pre-training of CLIP and SAM 2 at full size. `vision` trains one convolutional trunk for both towers:
CLIP's layers read it at stride 16, SAM 2's neck at all strides. `tower` trains the language side's copy further,
together with CLIP's layers. The heads are discarded afterwards, except objectness, which the language side uses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trajseg.model import TrajSegModel
from trajseg.shapes.recipe.clips import Pictures
from trajseg.shapes.recipe.mixtures import ATTRIBUTE_SIZES, NAMES
from trajseg.shapes.recipe.precision import quick
from trajseg.shapes.world.scenes import COLOURS
from trajseg.training.objectness import focal_loss, heat_around

BOX_WEIGHT = 15.0
"""Weight of the box loss, the mean error of a side in units of the picture. Slow motion is a small change of boxes."""


class VisionPretraining(nn.Module):
    """The model's two vision towers, sharing one trunk, with dense heads.

    The vision tower's patch tokens (256 of them) predict colour, shape, size and visible box of the object at a cell;
    SAM 2's top level predicts colour, shape and size, and its finest level foreground and colour.
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
        """Pictures (n, 3, S, S) -> patch tokens (n, P, V) and, of each `every`-th picture, two levels of SAM 2.

        The levels are the top one (m, C, h, w) and the finest one (m, C, 4h, 4w).
        """
        *shared, coarsest = self.encoder.trunk.stages
        maps = [pixels]
        for stage in shared:
            maps.append(stage(maps[-1]))
        # Sliced as NHWC; otherwise the gradient would have another memory format than the maps.
        cut = [level.permute(0, 2, 3, 1)[::every].permute(0, 3, 1, 2) for level in maps[2:]]
        levels, _ = self.encoder.neck([*cut, coarsest(cut[-1])])
        return self.tokens(maps[-1]), levels[2], levels[0]

    def tokens(self, stride16: Tensor) -> Tensor:
        """The vision tower on an existing trunk map; equals `TrajSegModel.patch_features`."""
        embeddings = self.tower.embeddings
        patches = embeddings.patch_embedding.project(stride16).flatten(2).transpose(1, 2)
        start = embeddings.class_embedding.expand(len(patches), 1, -1)
        hidden = torch.cat([start, patches], dim=1) + embeddings.position_embedding.weight
        hidden = self.tower.pre_layrnorm(hidden)
        for layer in self.tower.encoder.layers:
            hidden = layer(hidden, attention_mask=None)
        return hidden[:, 1:]

    def loss(self, clips: list[Pictures]) -> tuple[Tensor, dict[str, float]]:
        """The dense losses of both towers; SAM 2's levels learn faster and cost more, so only every 4th picture."""
        pixels = torch.cat([clip.pixels for clip in clips])
        every = 4
        with quick():
            tokens, top, fine = self(pixels.contiguous(memory_format=torch.channels_last), every)
        tokens, top, fine = tokens.float(), top.float(), fine.float()
        side = top.shape[-1]
        targets = [dense_targets(clip, side) for clip in clips]
        look, on_object = _owned(clips, targets)
        loss, figures = _token_loss(self, tokens, targets, look, on_object)
        cells = self.cell_attributes(top).flatten(2).transpose(1, 2)[on_object[::every]]
        loss = loss + _attribute_loss(cells, look[::every][on_object[::every]], figures, "cell")
        fine_loss = self._fine_loss(clips, fine, every)
        figures["fine"] = float(fine_loss.detach())
        return loss + fine_loss, figures

    def _fine_loss(self, clips: list[Pictures], fine: Tensor, every: int) -> Tensor:
        """Foreground and colour, at a quarter of the resolution."""
        step = clips[0].ids.shape[-1] // fine.shape[-1]
        planes = [clip.ids[:, step // 2 :: step, step // 2 :: step].long() for clip in clips]
        looks = [clip.look[:, :NAMES] for clip in clips]
        names = [F.pad(look[:, : len(COLOURS)] * attribute_weights(look)[0], (0, 0, 1, 0)) for look in looks]
        colours = [table[plane] for table, plane in zip(names, planes, strict=True)]
        ids, colour = torch.cat(planes)[::every], torch.cat(colours)[::every]
        out = self.fine(fine)
        found = F.binary_cross_entropy_with_logits(out[:, 0], (ids > 0).float())
        return found + 0.3 * _soft_cross_entropy(out[:, 1:].permute(0, 2, 3, 1)[ids > 0], colour[ids > 0])


class TowerTraining(nn.Module):
    """Trains the vision tower further, with the heads of stage `vision`; SAM 2's encoder does not change."""

    def __init__(self, vision: VisionPretraining, features: Callable[[Sequence[Tensor]], Tensor]) -> None:
        """`features`: the model's function from the tower's hidden states to patch features."""
        super().__init__()
        self.tower, self.objectness = vision.tower, vision.objectness
        self.token_attributes, self.token_box = vision.token_attributes, vision.token_box
        self.features = features

    def loss(self, clips: list[Pictures]) -> tuple[Tensor, dict[str, float]]:
        """The dense losses of the patch tokens."""
        pixels = torch.cat([clip.pixels for clip in clips]).contiguous(memory_format=torch.channels_last)
        with quick():
            tokens = self.features(self.tower(pixel_values=pixels, output_hidden_states=True).hidden_states).float()
        side = math.isqrt(tokens.shape[1])
        targets = [dense_targets(clip, side) for clip in clips]
        return _token_loss(self, tokens, targets, *_owned(clips, targets))


@dataclass(frozen=True)
class DenseTargets:
    """Targets of a grid of side x side cells over n letterboxed frames.

    owner (n, side, side) int64: the object that covers most of a cell and at least 0.3 of it, else -1;
    heat (n, side, side) in 0..1: high near the centre of an object's visible box; centre (n, side, side) bool: the
    cells with such a centre; box (n, side, side, 4): that box, xyxy in units of the picture's side.
    """

    owner: Tensor
    heat: Tensor
    centre: Tensor
    box: Tensor

    def of(self, objects: Tensor) -> Tensor:
        """Gathers `objects` (K, ...) by each cell's owner: (n, side, side, ...); object 0's for cells without one."""
        return objects[self.owner.clamp(min=0)]


def dense_targets(clip: Pictures, side: int) -> DenseTargets:
    """The dense targets of a clip's pictures."""
    n, size, _ = clip.ids.shape
    planes = clip.planes
    coverage = F.avg_pool2d(planes, size // side)
    most, owner = coverage.max(dim=1)
    owner = torch.where(most >= 0.3, owner, -1)
    centre = torch.zeros(n, side, side, dtype=torch.bool)
    box = torch.zeros(n, side, side, 4)
    for frame, k, xyxy in visible_boxes(planes):
        x, y = (xyxy[0] + xyxy[2]) / 2 * side, (xyxy[1] + xyxy[3]) / 2 * side
        column, row = min(side - 1, int(x)), min(side - 1, int(y))
        centre[frame, row, column] = True
        box[frame, row, column] = xyxy
        owner[frame, row, column] = k
    return DenseTargets(owner, heat_around(centre), centre, box)


def visible_boxes(planes: Tensor, least: int = 40) -> Iterator[tuple[int, int, Tensor]]:
    """(frame, object, xyxy in units of the side) of each object of at least `least` pixels in planes (n, K, S, S)."""
    size = planes.shape[-1]
    rows, columns = planes.amax(3), planes.amax(2)
    area = planes.sum((2, 3))
    for frame, k in (area >= least).nonzero().tolist():
        y, x = rows[frame, k].nonzero()[:, 0], columns[frame, k].nonzero()[:, 0]
        yield frame, k, torch.tensor([x[0], y[0], x[-1] + 1, y[-1] + 1]) / size


def _owned(clips: list[Pictures], targets: list[DenseTargets]) -> tuple[Tensor, Tensor]:
    """The looks (n, P, NAMES) of the cells' owners, and which cells have an owner, (n, P) bool."""
    looks = [target.of(clip.look[:, :NAMES]) for clip, target in zip(clips, targets, strict=True)]
    owner = torch.cat([target.owner for target in targets])
    return torch.cat(looks).flatten(1, 2), owner.flatten(1) >= 0


def _token_loss(
    heads: VisionPretraining | TowerTraining,
    tokens: Tensor,
    targets: list[DenseTargets],
    look: Tensor,
    on_object: Tensor,
) -> tuple[Tensor, dict[str, float]]:
    """The dense losses of patch tokens (n, P, V); look and on_object as from `_owned`."""
    heat = torch.cat([target.heat for target in targets]).flatten(1)
    at = torch.cat([target.centre for target in targets]).flatten(1)
    box = torch.cat([target.box for target in targets]).flatten(1, 2)
    figures: dict[str, float] = {}
    named = _attribute_loss(heads.token_attributes(tokens[on_object]), look[on_object], figures, "token")
    heat_loss = focal_loss(heads.objectness(tokens)[..., 0], heat, at)
    box_error = F.l1_loss(heads.token_box(tokens[at]), box[at])
    figures |= {"heat": float(heat_loss.detach()), "box": float(box_error.detach())}
    return named + heat_loss + BOX_WEIGHT * box_error, figures


def _attribute_loss(logits: Tensor, look: Tensor, figures: dict[str, float], prefix: str) -> Tensor:
    """Cross entropy of colour, shape and size, summed; logits and look (M, NAMES)."""
    total = logits.new_zeros(())
    parts = (tensor.split(ATTRIBUTE_SIZES, dim=-1) for tensor in (logits, look))
    for name, guess, truth, weight in zip(("colour", "shape", "size"), *parts, attribute_weights(look), strict=True):
        total = total + _soft_cross_entropy(guess, truth * weight)
        named = truth.sum(-1) > 0
        if named.any():
            figures[f"{prefix}_{name}"] = float((guess.argmax(-1) == truth.argmax(-1))[named].float().mean())
    return total


def attribute_weights(look: Tensor) -> tuple[Tensor, Tensor, float]:
    """Loss weights of colour (M, 1), shape (M, 1) and size, for objects with looks (M, NAMES).

    A colour counts only if the shape is unnamed, and a shape only if the colour is unnamed. So nothing is learned about
    pairs of names, not even which pairs exist.
    """
    colours, shapes, _ = look.split(ATTRIBUTE_SIZES, dim=-1)
    colour, shape = ((other.sum(-1, keepdim=True) == 0).float() for other in (shapes, colours))
    return colour, shape, 1.0


def _soft_cross_entropy(logits: Tensor, weights: Tensor) -> Tensor:
    """Cross entropy with target weights (M, n), averaged over the rows with any weight."""
    return -(weights * logits.log_softmax(-1)).sum() / weights.sum().clamp(min=1)
