"""Marks: masks of objects that a person marked on a frame, from SAM 2's prompt encoder and mask decoder.

A box is two points, its corners, with their own labels; a click is one point. The instruction's prompt is one more
sparse token, and memory conditions the picture's features. If SAM 2 lacks its pre-training on millions of boxes, a
small additional part (MarkReader) replaces that.

Shapes: R rows (one marked object each), P points per row, C channels of SAM 2, h = w = cells per side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trajseg.model.mask_decoder import DecodedMask, FrameFeatures, Tracker
from trajseg.model.processor import inner_size

CLICK, TOP_LEFT, BOTTOM_RIGHT = 1, 2, 3
"""SAM 2's point labels."""


@dataclass(frozen=True)
class Marks:
    """One box or click per row; all rows are boxes, or all are clicks.

    coordinates (R, P, 2) float32: x, y in pixels of the letterboxed picture, 0 at the middle of the first pixel, as
    the sam2 package counts (its prompt encoder adds the half); labels (R, P) int32.
    """

    coordinates: Tensor
    labels: Tensor

    @classmethod
    def boxes(cls, xyxy: Tensor) -> Marks:
        """Boxes (R, 4) float32: the first and the last pixel in each."""
        corners = torch.tensor([TOP_LEFT, BOTTOM_RIGHT], dtype=torch.int32, device=xyxy.device)
        return cls(xyxy.view(-1, 2, 2), corners.expand(len(xyxy), 2))

    @classmethod
    def clicks(cls, xy: Tensor) -> Marks:
        """Clicks (R, 2) float32 on the objects."""
        return cls(xy[:, None], torch.full((len(xy), 1), CLICK, dtype=torch.int32, device=xy.device))

    @property
    def clicked(self) -> bool:
        """Whether the rows are clicks."""
        return self.labels.shape[1] == 1

    def letterboxed(self, height: int, width: int, side: int) -> Marks:
        """Marks in a picture of `height` x `width` pixels, converted to the picture letterboxed to `side`."""
        inner_height, inner_width = inner_size(height, width, side)
        scale = torch.tensor([inner_width / width, inner_height / height], device=self.coordinates.device)
        return Marks(self.coordinates * scale, self.labels)


class MarkReader(nn.Module):
    """Turns a mark's position into a dense prompt, and the picture under it into a sparse one.

    A decoder trained only with trajectory tokens knows how objects look, but cannot interpret a pair of points. So it
    gets the mark as a map, added to the features' cells, and as a token of the kind that it knows, made from the
    features at the centre of the mark.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.look = nn.Sequential(nn.Linear(channels, 2 * channels), nn.ReLU(), nn.Linear(2 * channels, channels))
        self.place = nn.Sequential(nn.Conv2d(2, 32, 3, padding=1), nn.GELU(), nn.Conv2d(32, channels, 1))

    def forward(self, marks: Marks, frame: FrameFeatures, stride: int) -> tuple[Tensor, Tensor]:
        """Marks on frames -> sparse (R, 1, C) and dense (R, C, h, w), to be added to the prompt encoder's own.

        Args:
            stride: pixels of the letterboxed picture per cell.
        """
        top = frame.top
        first = (marks.coordinates[:, 0] / stride).to(top.dtype)
        last = ((marks.coordinates[:, -1] + 1) / stride).to(top.dtype)
        spread = torch.ones_like(first) if marks.clicked else (last - first) / 3 + 0.25
        cells = torch.arange(top.shape[-1], device=top.device)
        away = (cells + 0.5 - ((first + last) / 2)[..., None]) / spread[..., None]
        x, y = (-(away**2)).exp().unbind(1)
        middle = y[:, :, None] * x[:, None]
        if marks.clicked:
            planes = torch.stack([torch.zeros_like(middle), middle], dim=1)
        else:
            covered = torch.minimum(last[..., None], cells + 1.0) - torch.maximum(first[..., None], cells + 0.0)
            x, y = covered.clamp(min=0).unbind(1)
            planes = torch.stack([y[:, :, None] * x[:, None], torch.zeros_like(middle)], dim=1)
        looks = (top * middle[:, None]).sum((2, 3)) / middle.sum((1, 2))[:, None]
        return self.look(looks)[:, None], self.place(planes)


def draw_marked(
    tracker: Tracker,
    index: int,
    frame: FrameFeatures,
    marks: Marks,
    prompt: Tensor | None = None,
    reader: MarkReader | None = None,
) -> DecodedMask:
    """The marked objects on frame `index`, using the tracker's memory of them; memory is not changed.

    Without a reader this is SAM 2 as pre-trained: for a click it draws three masks (a click on a wheel may mean the
    car), and the one with the highest predicted IoU is used.

    Args:
        tracker: without memories, or only with those of the marked objects.
        frame: features, one picture per row.
        prompt: the instruction's prompt for the object on this frame, (R, C), from content integration.
        reader: the checkpoint's mark reader, if any.
    """
    sam2 = tracker.sam2
    sparse, dense = sam2.sam_prompt_encoder(points=(marks.coordinates, marks.labels), boxes=None, masks=None)
    tokens = [sparse]
    if reader is not None:
        look, place = reader(marks, frame, sam2.backbone_stride)
        tokens.append(look.to(sparse.dtype))
        dense = dense + place
    if prompt is not None:
        tokens.append(prompt[:, None].to(sparse.dtype))
    top = tracker.remembering(index, frame)
    return tracker.draw(top, frame, torch.cat(tokens, dim=1), dense, several=reader is None and marks.clicked)
