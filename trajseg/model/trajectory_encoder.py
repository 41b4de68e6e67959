"""The trajectory encoder: turns an object's boxes, one per frame, into one token per frame for the language model.

The paper's SPI module. Maps of several layers of the vision tower form a pyramid in which neighbouring levels exchange
channels; RoIAlign reads a frame's box from every level, and the box's position is added.
Shapes: N frames, K trajectories of one clip, L levels (shallowest first, largest map first), V width of the vision
tower, C channels of the maps, D width of the language model. Parameters have the names of published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from trajseg.model.config import TrajectoryEncoderShape
from trajseg.model.recomputing import worked


class TrajectoryEncoder(nn.Module):
    """Boxes (K, N, 4) on a clip -> tokens (K, N, D).

    The part that does not depend on the boxes is computed once per clip: `pyramid`, shared by all trajectories.
    """

    def __init__(self, shape: TrajectoryEncoderShape, vision_width: int, language_width: int) -> None:
        super().__init__()
        self.shape = shape
        self.mlvl_fuse = FeaturePyramid(shape, vision_width)
        self.roi_align = BoxReader(shape, language_width)

    def pyramid(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Patch tokens of the L levels without CLS, (N, P, V) each -> maps (N, C, s, s), s halving from level to level.

        The last level has the vision tower's grid, sqrt(P) cells per side.
        """
        return self.mlvl_fuse(levels)

    def forward(self, pyramid: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Tokens of K trajectories, (K, N, D).

        Args:
            pyramid: of the clip's N frames.
            boxes: (K, N, 4), xyxy in units of the (letterboxed) picture's side, zero if the object is absent.
        """
        return self.roi_align(pyramid, boxes)


class FeaturePyramid(nn.Module):
    """Steps 1 to 3: resize, add coordinates, and mix neighbouring levels (`mlvl_fuse`)."""

    recompute = False
    """Whether training recomputes the rounds in the backward pass."""

    def __init__(self, shape: TrajectoryEncoderShape, vision_width: int) -> None:
        super().__init__()
        self.levels = len(shape.levels)
        self.input_conv = nn.ModuleList(nn.Conv2d(vision_width + 2, shape.channels, 1) for _ in shape.levels)
        self.fuse_convs = nn.ModuleList(MixingRound(shape.channels, shape.groups) for _ in range(shape.rounds))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        maps = []
        for number, (tokens, conv) in enumerate(zip(levels, self.input_conv, strict=True)):
            frames, patches, width = tokens.shape
            side = round(patches**0.5)
            grid = tokens.transpose(1, 2).reshape(frames, width, side, side)
            grid = _resized(grid, side * 2 ** (self.levels - 1 - number))
            maps.append(conv(torch.cat([grid, _coordinates(grid)], dim=1)))
        for mixing in self.fuse_convs:
            maps = worked(mixing, maps, again=self.recompute)
        return maps


class MixingRound(nn.Module):
    """One round: every level takes half of its channels from itself and a quarter from each neighbour.

    The convolution is shared by all levels, and all are updated at once. At either end of the pyramid, a level is its
    own neighbour.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.gn = nn.GroupNorm(groups, channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        half, quarter = maps[0].shape[1] // 2, maps[0].shape[1] // 4
        mixed = []
        for number, own in enumerate(maps):
            up, down = maps[min(number + 1, len(maps) - 1)], maps[max(number - 1, 0)]
            side = own.shape[-1]
            parts = [own[:, :half], _resized(up[:, -quarter:], side), _resized(down[:, half : half + quarter], side)]
            # Autocast normalises in float32, which needs twice the memory.
            mixed.append(F.relu(self.gn(self.conv(torch.cat(parts, dim=1)))).to(own.dtype))
        return mixed


class BoxReader(nn.Module):
    """Steps 4 to 7: RoIAlign on every level, sum, and add the box's position (`roi_align`)."""

    def __init__(self, shape: TrajectoryEncoderShape, language_width: int) -> None:
        super().__init__()
        self.roi = shape.roi
        channels, width = shape.channels, shape.width
        self.pconvs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in shape.levels)
        self.pos_embedd = nn.Sequential(
            nn.Linear(4, shape.box_width),
            nn.ReLU(),
            nn.LayerNorm(shape.box_width),
            nn.Linear(shape.box_width, width),
            nn.ReLU(),
            nn.LayerNorm(width),
        )
        self.flatten_linear = nn.Linear(channels * shape.roi**2, width)
        self.updims = nn.Linear(width, language_width)

    def forward(self, pyramid: Sequence[Tensor], boxes: Tensor) -> Tensor:
        count, frames = boxes.shape[:2]
        flat = boxes.reshape(-1, 4)
        frame = torch.arange(frames, device=boxes.device).repeat(count)[:, None]
        cuts = []
        for level, conv in zip(pyramid, self.pconvs, strict=True):
            # In float32, because RoIAlign does not support half precision on every device.
            rois = torch.cat([frame, flat * level.shape[-1]], dim=1).float()
            cut = roi_align(level.float(), rois, self.roi, spatial_scale=1.0, sampling_ratio=2, aligned=True)
            cuts.append(conv(cut.to(level.dtype)))
        read = F.relu(torch.stack(cuts).sum(0))
        tokens = self.flatten_linear(read.flatten(1)) + self.pos_embedd(flat.to(read.dtype))
        return self.updims(tokens).view(count, frames, -1)


def _resized(maps: Tensor, side: int) -> Tensor:
    """(n, C, s, s) -> (n, C, side, side), bilinear with aligned corners, in float32."""
    if maps.shape[-1] == side:
        return maps
    return F.interpolate(maps.float(), (side, side), mode="bilinear", align_corners=True).to(maps.dtype)


def _coordinates(maps: Tensor) -> Tensor:
    """x and y of every cell, -1 to 1, as two channels (n, 2, s, s)."""
    line = torch.linspace(-1, 1, maps.shape[-1], device=maps.device, dtype=maps.dtype)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y]).expand(len(maps), -1, -1, -1)
