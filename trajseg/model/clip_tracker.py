"""The clip tracker: draws all objects of one clip frame by frame, following the frame rule.

Shapes: R objects; C channels of SAM 2; H, W pixels of the clip's frames.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from trajseg.model.config import TrajSegConfig
from trajseg.model.mask_decoder import FrameFeatures, Tracker
from trajseg.model.modeling import TrajSegModel
from trajseg.model.processor import TrajSegProcessor
from trajseg.model.sampling import Sampling


@dataclass(frozen=True)
class FrameRule:
    """The frame rule: how each frame of a clip is decoded (paper, unified mask decoder).

    Args:
        keys: 0-based frames that get a prompt, write a conditioning memory and, in the paper, read none.
        prompt_every_frame: all other frames get a prompt as well; they still write an ordinary memory (ours).
        released_behaviour: frame 0 is decoded without the no-memory embedding, and its memory comes from its mask, as
            in the authors' code.
    """

    keys: frozenset[int]
    prompt_every_frame: bool = False
    released_behaviour: bool = False

    @classmethod
    def of(cls, config: TrajSegConfig, sampling: Sampling, keys: Collection[int]) -> FrameRule:
        """The rule of a checkpoint; a chosen number of key frames disables prompts on all frames."""
        everywhere = config.prompt_every_frame and sampling.key_frames is None
        return cls(frozenset(keys), everywhere, config.released_behaviour)

    def is_prompted(self, index: int) -> bool:
        """Whether the decoder gets the objects' prompts on this frame."""
        return self.prompt_every_frame or index in self.keys

    def is_remembered_from_mask(self, index: int) -> bool:
        """Whether this frame is treated as the first frame in the authors' code."""
        return index == 0 and self.released_behaviour


class ClipTracker:
    """Draws R objects through one clip in time order, or restores frames drawn by an earlier run.

    Args:
        trajectories: trajectory tokens of the objects, (R, C).
        size: (H, W) of the clip's frames.
        frame_count: frames of the clip.
    """

    def __init__(
        self,
        model: TrajSegModel,
        processor: TrajSegProcessor,
        trajectories: Tensor,
        rule: FrameRule,
        size: tuple[int, int],
        frame_count: int,
    ) -> None:
        config = model.config
        self._model, self._processor, self._trajectories = model, processor, trajectories
        self._rule, self._size = rule, size
        self._tracker = Tracker(
            model.visual_model, frame_count, config.key_frame_memory, start_score=config.start_score
        )
        self._rows = torch.zeros(len(trajectories), dtype=torch.long, device=model.device)

    def draw(self, index: int, features: FrameFeatures) -> tuple[Tensor, Tensor]:
        """Draws frame `index`, given the features of its picture.

        Returns:
            mask logits (R, H, W) float32, far below 0 for absent objects, and object scores (R,), the log-odds that
            each is in the frame.
        """
        frame, rule = features[self._rows], self._rule
        from_mask = rule.is_remembered_from_mask(index)
        prompt = self._model.prompts(self._trajectories, features)[:, 0] if rule.is_prompted(index) else None
        if from_mask and prompt is not None:
            decoded = self._tracker.draw_first(frame, prompt)
        else:
            decoded = self._tracker.step(index, frame, prompt, key=index in rule.keys)
        logits = self._processor.to_picture(decoded.gated(), *self._size)
        if from_mask:
            self._tracker.paint(index, frame, self._processor.mask_targets(logits > 0))
        return logits, decoded.score

    def reads(self, index: int, earlier: int) -> bool:
        """Whether the memory of frame `earlier` is read for frame `index`, or for a frame after it."""
        return earlier in self._rule.keys or index - earlier < self._tracker.reach

    def recall(self, index: int, masks: Tensor, scores: Tensor, features: FrameFeatures | None) -> None:
        """Stores the memory of frame `index` from an earlier run, instead of drawing it.

        Args:
            masks: bool (R, H, W).
            scores: object scores, (R,).
            features: of the frame; None if no frame yet to be drawn reads it (see `reads`).
        """
        if features is None:
            self._tracker.believe(scores)
            return
        frame, targets = features[self._rows], self._processor.mask_targets(masks)
        if self._rule.is_remembered_from_mask(index):
            self._tracker.paint(index, frame, targets)
        else:
            self._tracker.recall(index, frame, targets, scores, key=index in self._rule.keys)
