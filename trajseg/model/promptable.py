"""A SAM 2 that segments and tracks objects marked by boxes and points: picture geometry and prompt encoder.

Meta's weights expect pictures stretched to a square; a TrajSeg checkpoint's SAM 2 expects letterboxed ones, and has a
mark reader if it lacks SAM 2's pre-training.
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
        letterboxed: keep the aspect ratio and pad at the right and bottom; otherwise stretch to a square.
        reader: the checkpoint's mark reader, if any.
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
        """The device of its weights."""
        device: torch.device = self.sam2.no_mem_embed.device
        return device

    @property
    def side(self) -> int:
        """Side of its input pictures in pixels."""
        return int(self.sam2.image_size)

    def encode(self, frames: Sequence[np.ndarray]) -> FrameFeatures:
        """Features of pictures RGB uint8 [H, W, 3]."""
        return encode_frames(self.sam2, torch.stack([self._pixels(frame) for frame in frames]).to(self.device))

    def tracker(self, frame_count: int, backwards: bool = False) -> Tracker:
        """A tracker for objects of a clip, in either direction of time."""
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
        """Masks for marks on frame `index`, in pixels of a picture of `size` (height, width); memory is not changed.

        Args:
            tracker: with the memory of the marked objects, if any.
            frame: features of the picture, one row, or one per mark.
            prompt: the instruction's prompts for the objects on this frame, (R, C).
        """
        placed = Marks(marks.coordinates.to(self.device) * self._scale(size), marks.labels.to(self.device))
        rows = frame if len(frame.top) == len(marks.labels) else frame[self._rows(len(marks.labels))]
        return draw_marked(tracker, index, rows, placed, prompt, self.reader)

    def logits(self, decoded: Tensor, size: tuple[int, int]) -> Tensor:
        """Mask logits (R, h, w) of the model's picture -> (R, height, width) for a picture of `size`, float32."""
        whole = (self.side, self.side)
        full = F.interpolate(decoded[:, None].float(), whole, mode="bilinear", align_corners=False)
        height, width = self._inner(size)
        return F.interpolate(full[:, :, :height, :width], size, mode="bilinear", align_corners=False)[:, 0]

    def painted(self, masks: Sequence[np.ndarray]) -> Tensor:
        """Masks bool [H, W] -> (R, side, side) of 0 and 1, for `Tracker.paint`."""
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
        """Height and width of the picture inside the model's square input."""
        return inner_size(size[0], size[1], self.side) if self.letterboxed else (self.side, self.side)

    def _scale(self, size: tuple[int, int]) -> Tensor:
        height, width = self._inner(size)
        return torch.tensor([width / size[1], height / size[0]], dtype=torch.float32, device=self.device)
