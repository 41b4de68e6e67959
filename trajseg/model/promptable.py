"""A SAM 2 that draws what boxes and points mark, and follows it: the geometry of its pictures, and its prompt encoder.

Meta's own weights see pictures squeezed into a square; a TrajSeg checkpoint's SAM 2 sees them letterboxed, and has a
mark reader where it comes without SAM 2's pre-training.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor
from torch.nn import functional as F

from trajseg.model.marks import MarkReader, Marks, draw_marked
from trajseg.model.mask_decoder import DecodedMask, FrameFeatures, Tracker, encode_frames
from trajseg.model.processor import IMAGENET_MEAN, IMAGENET_STD, inner_size, letterbox


class PromptableSam2:
    """SAM 2 with the geometry of its pictures.

    Args:
        sam2: in evaluation mode.
        letterboxed: pictures keep their aspect and are padded right and below; else they are squeezed into a square.
        reader: helps with marks where the checkpoint has one.
        start_score, several: see Tracker.
    """

    def __init__(
        self,
        sam2: SAM2Base,
        letterboxed: bool = False,
        reader: MarkReader | None = None,
        start_score: float = 0.0,
        several: bool = False,
    ) -> None:
        self.sam2, self.letterboxed, self.reader = sam2, letterboxed, reader
        self.start_score, self.several = start_score, several

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        device: torch.device = self.sam2.no_mem_embed.device
        return device

    @property
    def side(self) -> int:
        """Pixels of a side of the pictures that it sees."""
        return int(self.sam2.image_size)

    def encode(self, frames: Sequence[np.ndarray]) -> FrameFeatures:
        """Features of pictures RGB uint8 [H, W, 3]."""
        return encode_frames(self.sam2, torch.stack([self._pixels(frame) for frame in frames]).to(self.device))

    def tracker(self, frame_count: int, backwards: bool = False) -> Tracker:
        """Follows objects through a clip, either way in time."""
        return Tracker(
            self.sam2,
            frame_count,
            backwards=backwards,
            start_score=self.start_score,
            several=self.several,
        )

    def draw(
        self,
        tracker: Tracker,
        index: int,
        frame: FrameFeatures,
        marks: Marks,
        size: tuple[int, int],
        prompt: Tensor | None = None,
    ) -> DecodedMask:
        """What marks in pixels of a picture of `size` (height, width) mean on frame `index`; nothing is remembered.

        Args:
            tracker: with what is remembered of the marked objects, if anything.
            frame: features of the picture, one row, or one a mark.
            prompt: what an instruction says of the objects on this frame, (R, C).
        """
        placed = Marks(marks.coordinates.to(self.device) * self._scale(size), marks.labels.to(self.device))
        rows = frame if len(frame.top) == len(marks.labels) else frame[self._rows(len(marks.labels))]
        return draw_marked(tracker, index, rows, placed, prompt, self.reader)

    def logits(self, decoded: Tensor, size: tuple[int, int]) -> Tensor:
        """Mask logits (R, h, w) of the model's picture -> (R, height, width) of a picture of `size`, float32."""
        whole = (self.side, self.side)
        full = F.interpolate(decoded[:, None].float(), whole, mode="bilinear", align_corners=False)
        height, width = self._inner(size)
        return F.interpolate(full[:, :, :height, :width], size, mode="bilinear", align_corners=False)[:, 0]

    def painted(self, masks: Sequence[np.ndarray]) -> Tensor:
        """Masks bool [H, W] -> (R, side, side) of 0 and 1, as `Tracker.paint` takes them."""
        whole = torch.zeros(len(masks), self.side, self.side)
        for row, mask in enumerate(masks):
            height, width = self._inner(mask.shape)
            small = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
            whole[row, :height, :width] = torch.from_numpy((small >= 0.5).astype(np.float32))
        return whole.to(self.device)

    def _rows(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.long, device=self.device)

    def _pixels(self, frame: np.ndarray) -> Tensor:
        if self.letterboxed:
            return letterbox(frame, self.side)
        shrink = min(frame.shape[:2]) > self.side
        method = cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
        square = cv2.resize(frame, (self.side, self.side), interpolation=method).astype(np.float32) / 255
        normal = (square - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
        return torch.from_numpy(normal).permute(2, 0, 1)

    def _inner(self, size: Sequence[int]) -> tuple[int, int]:
        """Height and width of what holds the picture, in the square that the model sees."""
        return inner_size(size[0], size[1], self.side) if self.letterboxed else (self.side, self.side)

    def _scale(self, size: tuple[int, int]) -> Tensor:
        height, width = self._inner(size)
        return torch.tensor([width / size[1], height / size[0]], dtype=torch.float32, device=self.device)
