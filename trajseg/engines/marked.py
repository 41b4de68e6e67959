"""Marked objects: segments what a person marks on one frame, with support from an instruction and memory.

The mark is the truth. The instruction and memory may refer to another object, because people mark objects that were
missed or where a track went wrong. So each of them is first decoded alone, and used only if its mask fits the mark.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from sam2.utils.amg import calculate_stability_score
from torch import Tensor

from trajseg.model.marks import Marks
from trajseg.model.mask_decoder import DecodedMask, FrameFeatures, Tracker
from trajseg.model.promptable import PromptableSam2
from trajseg.tracks.mark import FITS, Mark, fit
from trajseg.video import Clip

STABILITY_MARGIN, STABLE = 2.0, 0.65
"""A mask is certain if this share of its pixels with logits above -2 is also above +2: SAM's stability score."""
MEMORIES = 2
"""Most frames remembered, the nearest ones, as in propagation by memory."""


class MarkedObject:
    """An object marked on one frame of a clip, and nearby frames on which its mask is known.

    Args:
        known: masks of the same object, bool [H, W], by 0-based frame; those nearest to the mark are remembered.

    Raises:
        InputError: the mark lies outside the picture, or the clip has no such frame.
        VideoError: the video can no longer be read.
    """

    def __init__(self, sam2: PromptableSam2, clip: Clip, mark: Mark, known: Mapping[int, np.ndarray]) -> None:
        self.sam2, self.clip, self.marked = sam2, clip, mark
        self.size = clip.height, clip.width
        self.marks = marks_of(mark, clip)
        shown = [index for index, mask in known.items() if mask.any() and index != mark.index]
        near = sorted(shown, key=lambda index: abs(index - mark.index))[:MEMORIES]
        pictures = dict(clip.frames(sorted(near)))
        features = sam2.encode([mark.picture(clip), *(pictures[index] for index in near)])
        self.frame: FrameFeatures = features[:1]
        self.memory = self._tracker()
        for row, index in enumerate(near, 1):
            self.memory.paint(index, features[row : row + 1], sam2.painted([known[index]]))

    def mask(self, prompts: Tensor | None = None) -> np.ndarray:
        """The mask, bool [H, W]; all False if SAM 2 is not certain of it.

        Args:
            prompts: of the instruction's objects on the marked frame, (S, C); S may be 0.
        """
        logits = self.logits(prompts)
        stable = float(calculate_stability_score(logits[None], 0.0, STABILITY_MARGIN)[0])
        return (logits > 0).cpu().numpy() & (stable >= STABLE)

    def logits(self, prompts: Tensor | None = None) -> Tensor:
        """The mask's logits, float32 (H, W)."""
        tracker = self.memory if self.remembered() else self._tracker()
        meant = None if prompts is None else self.meant(prompts)
        decoded = self.sam2.draw(tracker, self.marked.index, self.frame, self.marks, self.size, meant)
        # A mark says that the object is there, so the object gate is ignored.
        return self.sam2.logits(decoded.logits, self.size)[0]

    def remembered(self) -> bool:
        """Whether memory contains the marked object."""
        if not self.memory.key_memories:
            return False
        alone = self.memory.step(self.marked.index, self.frame, None, remember=False)
        return self._fits(alone)[0] >= FITS

    def meant(self, prompts: Tensor) -> Tensor | None:
        """Of prompts (S, C), the one (1, C) that fits the marked object best; None if none does."""
        if not len(prompts):
            return None
        rows = torch.zeros(len(prompts), dtype=torch.long, device=prompts.device)
        alone = self._tracker().step(self.marked.index, self.frame[rows], prompts, remember=False)
        fits = self._fits(alone)
        best = int(np.argmax(fits))
        return prompts[best : best + 1] if fits[best] >= FITS else None

    def _tracker(self) -> Tracker:
        return self.sam2.tracker(len(self.clip))

    def _fits(self, alone: DecodedMask) -> list[float]:
        whole = self.sam2.logits(alone.gated(), self.size)
        return [fit(mask, self.marked) for mask in (whole > 0).cpu().numpy()]


def marks_of(mark: Mark, clip: Clip) -> Marks:
    """A person's mark in pixels of the clip; InputError if it lies outside the picture."""
    if mark.point:
        return Marks.clicks(torch.tensor([mark.pixel(clip.width, clip.height)], dtype=torch.float32))
    left, top, right, bottom = mark.inside(clip.width, clip.height)
    return Marks.boxes(torch.tensor([[left, top, right - 1, bottom - 1]], dtype=torch.float32))
