"""Stage `captions`: the trajectory encoder learns tokens that the language model captions correctly.

The language model has learned to caption trajectories from symbols. Only the encoder is trained.
"""

from __future__ import annotations

from torch import Tensor, nn

from trajseg.model import TrajSegProcessor
from trajseg.shapes.recipe.pixels import ClipWithQuestions, PixelTraining


class CaptionTraining(nn.Module):
    """The trajectory encoder on clips with caption requests only.

    The loss is that of the captions plus the distance of the encoder's tokens from the symbolic ones.
    """

    def __init__(self, pixels: PixelTraining, processor: TrajSegProcessor) -> None:
        super().__init__()
        pixels.requires_grad_(False)
        self.trajectory_encoder = pixels.trajectory_encoder.requires_grad_(True)
        self.caption_loss = pixels.caption_loss  # a method, not a submodule: the rest is not trained here
        self.processor = processor

    def loss(self, clips: list[ClipWithQuestions]) -> tuple[Tensor, dict[str, float]]:
        """Loss and metrics of rendered clips with caption requests."""
        return self.caption_loss(clips, self.processor)
