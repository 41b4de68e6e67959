"""Hints: what a person marked on one frame is drawn by the model, with what instruction and memory say of it.

The mark is the truth. The instruction and memory may well mean another object, because a person marks what was
overlooked or where a track went astray. So each of them first draws alone, and is heard only where what it draws fits
the mark.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from sam2.utils.amg import calculate_stability_score
from torch import Tensor

from trajseg.model import TrajSegModel, TrajSegProcessor
from trajseg.model.marks import Marks, draw_marked
from trajseg.model.mask_decoder import DecodedMask, FrameFeatures, Tracker
from trajseg.tracks.mark import FITS, Mark, fit
from trajseg.video import Clip

STABILITY_MARGIN, STABLE = 2.0, 0.65
"""A mask is sure if this share of its pixels at logits above -2 is left above +2: SAM's stability score."""
MEMORIES = 2
"""Frames that are remembered, the nearest ones, as propagation by memory has them."""


class MarkedObject:
    """What is marked on one frame of a clip, and the frames near it on which its mask is known.

    Args:
        prompt: the mark.
        known: masks of the same object, bool [H, W], by 0-based frame; those nearest to the mark are remembered.

    Raises:
        InputError: the mark lies outside the picture, or on a frame that the clip has not.
        VideoError: the video can no longer be read.
    """

    def __init__(
        self,
        model: TrajSegModel,
        processor: TrajSegProcessor,
        clip: Clip,
        prompt: Mark,
        known: Mapping[int, np.ndarray],
    ) -> None:
        self.model, self.processor, self.clip, self.prompt = model, processor, clip, prompt
        self.marks = marks_of(prompt, clip, processor.mask_size, model.device)
        shown = [index for index, mask in known.items() if mask.any() and index != prompt.index]
        near = sorted(shown, key=lambda index: abs(index - prompt.index))[:MEMORIES]
        pictures = dict(clip.frames(sorted(near)))
        pixels = processor.mask_pixels([prompt.picture(clip), *(pictures[index] for index in near)])
        features = model.encode_frames(pixels.to(model.device))
        self.frame: FrameFeatures = features[:1]
        self.memory = self._tracker()
        for row, index in enumerate(near, 1):
            painted = processor.mask_targets(torch.from_numpy(known[index])[None])
            self.memory.paint(index, features[row : row + 1], painted.to(model.device))

    def mask(self, trajectories: Tensor) -> np.ndarray:
        """The mask, bool [H, W]; all False where the model is not sure of it.

        Args:
            trajectories: trajectory tokens of what the instruction means, (S, C); S may be 0.
        """
        logits = self.logits(trajectories)
        stable = float(calculate_stability_score(logits[None], 0.0, STABILITY_MARGIN)[0])
        return (logits > 0).cpu().numpy() & (stable >= STABLE)

    def logits(self, trajectories: Tensor) -> Tensor:
        """What the mask is made of, float32 (H, W)."""
        tracker = self.memory if self.remembered() else self._tracker()
        reader = self.model.mark_reader if self.model.config.mark_reader else None
        decoded = draw_marked(tracker, self.prompt.index, self.frame, self.marks, self.meant(trajectories), reader)
        # Whoever marks an object says that it is there: the object gate is not asked.
        return self.processor.to_picture(decoded.logits, self.clip.height, self.clip.width)[0]

    def remembered(self) -> bool:
        """Whether memory has the marked object."""
        if not self.memory.key_memories:
            return False
        alone = self.memory.step(self.prompt.index, self.frame, None, remember=False)
        return self._fits(alone)[0] >= FITS

    def meant(self, trajectories: Tensor) -> Tensor | None:
        """The prompt (1, C) of that trajectory token which means the marked object best, None if none does."""
        if not len(trajectories):
            return None
        prompts = self.model.prompts(trajectories, self.frame)[:, 0]
        rows = torch.zeros(len(prompts), dtype=torch.long, device=prompts.device)
        alone = self._tracker().step(self.prompt.index, self.frame[rows], prompts, remember=False)
        fits = self._fits(alone)
        best = int(np.argmax(fits))
        return prompts[best : best + 1] if fits[best] >= FITS else None

    def _tracker(self) -> Tracker:
        return Tracker(self.model.visual_model, len(self.clip))

    def _fits(self, alone: DecodedMask) -> list[float]:
        whole = self.processor.to_picture(alone.gated(), self.clip.height, self.clip.width)
        return [fit(mask, self.prompt) for mask in (whole > 0).cpu().numpy()]


def marks_of(prompt: Mark, clip: Clip, side: int, device: torch.device | str = "cpu") -> Marks:
    """A person's mark in the letterboxed picture; InputError where it lies outside the picture."""
    if prompt.point:
        marks = Marks.clicks(torch.tensor([prompt.pixel(clip.width, clip.height)], dtype=torch.float32, device=device))
    else:
        left, top, right, bottom = prompt.inside(clip.width, clip.height)
        pixels = [[left, top, right - 1, bottom - 1]]
        marks = Marks.boxes(torch.tensor(pixels, dtype=torch.float32, device=device))
    return marks.letterboxed(clip.height, clip.width, side)
