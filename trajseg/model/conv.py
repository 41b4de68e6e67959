"""A small convolutional trunk, for checkpoints that must learn shapes from few pictures.

It replaces Hiera in SAM 2 (`ConvTrunk`) and the patch embedding in CLIP (`ConvStem`).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // 16), channels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with GroupNorm and a skip: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = _norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = _norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.norm2(self.conv2(F.silu(self.norm1(self.conv1(x))))))


class ConvTrunk(nn.Module):
    """Feature maps at strides 4, 8, 16 and 32, finest first, as required by SAM 2's image encoder.

    Args:
        widths: channels at strides 2, 4, 8, 16, 32.
        blocks: residual blocks at each of these strides.
    """

    def __init__(self, widths: list[int], blocks: list[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        previous = 3
        for width, count in zip(widths, blocks, strict=True):
            self.stages.append(
                nn.Sequential(
                    nn.Conv2d(previous, width, 3, stride=2, padding=1, bias=False),
                    _norm(width),
                    nn.SiLU(),
                    *(ResidualBlock(width) for _ in range(count)),
                )
            )
            previous = width
        self.channel_list = list(reversed(widths[1:]))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[1:]


class ConvStem(nn.Module):
    """CLIP's patch embedding as a stack of convolutions: (B, 3, S, S) -> (B, hidden, S/16, S/16)."""

    def __init__(self, widths: list[int], blocks: list[int], hidden: int) -> None:
        super().__init__()
        self.trunk = ConvTrunk(widths, blocks)
        self.project = nn.Conv2d(widths[-1], hidden, 1)

    @property
    def weight(self) -> Tensor:
        """CLIP reads its patch embedding's dtype from this."""
        return self.project.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.trunk(x)[-1])
