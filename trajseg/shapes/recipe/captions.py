"""Stage `captions`: the trajectory encoder learns to write tokens that the language model describes rightly.

The language model knows from symbols how to describe a trajectory. Everything but the encoder stays as it is.
"""

from __future__ import annotations

from torch import Tensor, nn

from trajseg.model import TrajSegProcessor
from trajseg.shapes.recipe.pixels import AskedClip, PixelTraining


class CaptionTraining(nn.Module):
    """The trajectory encoder on clips with caption questions only.

    Its loss is that of the captions, and the distance of its tokens from the symbolic ones.
    """

    def __init__(self, pixels: PixelTraining, processor: TrajSegProcessor) -> None:
        super().__init__()
        pixels.requires_grad_(False)
        self.trajectory_encoder = pixels.trajectory_encoder.requires_grad_(True)
        self.caption_loss = pixels.caption_loss  # a method, not a submodule: the rest is not trained here
        self.processor = processor

    def loss(self, clips: list[AskedClip]) -> tuple[Tensor, dict[str, float]]:
        """Of rendered clips with requests for captions."""
        return self.caption_loss(clips, self.processor)
