"""Drawing: the masks of one answer's objects, frame by frame, resuming where an earlier run ended."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from trajseg.engines.base import FrameMasks, ObjectMask
from trajseg.model import TrajSegModel, TrajSegProcessor
from trajseg.model.clip_tracker import ClipTracker, FrameRule
from trajseg.model.mask_decoder import FrameFeatures
from trajseg.tracks import rle
from trajseg.video import Clip

ENCODED_AT_ONCE = 8
"""Batch size of SAM 2's image encoder."""
KEPT_BYTES = 2**29
"""Most memory for features kept from one instruction about a clip to the next."""


class ClipDrawing:
    """The masks of R objects in one clip.

    Args:
        rule: which frames get a prompt.
        key_pictures: by 0-based frame, RGB uint8 [H, W, 3] of the prompted frames, already read.
        kept: features by 0-based frame from an earlier drawing in this clip, and for later ones; None: not kept.
    """

    def __init__(
        self,
        model: TrajSegModel,
        processor: TrajSegProcessor,
        clip: Clip,
        rule: FrameRule,
        key_pictures: Mapping[int, np.ndarray],
        kept: dict[int, FrameFeatures] | None = None,
    ) -> None:
        self.model, self.processor, self.clip = model, processor, clip
        self.rule, self.key_pictures, self.kept = rule, key_pictures, kept

    def frames(self, uids: Sequence[str], trajectories: Tensor, done: Sequence[FrameMasks]) -> Iterator[FrameMasks]:
        """Draws every frame that is not done, in time order.

        Args:
            uids: of the objects, R.
            trajectories: their trajectory tokens, (R, C).
            done: frames of an earlier run, used to fill the memory.
        """
        earlier = {frame.index: frame for frame in done}
        missing = [index for index in range(len(self.clip)) if index not in earlier]
        if not missing:
            return
        size = (self.clip.height, self.clip.width)
        tracker = ClipTracker(self.model, self.processor, trajectories, self.rule, size, len(self.clip))
        # Of the finished frames, only those whose memory a missing frame reads are encoded.
        unread = {
            index
            for index in range(missing[-1])
            if index in earlier and not tracker.reads(missing[bisect(missing, index)], index)
        }
        features = self._features([index for index in range(missing[-1] + 1) if index not in unread])
        for index in range(missing[-1] + 1):
            if index in earlier:
                stored = [earlier[index].masks[uid] for uid in uids]
                masks, scores = _stacked_masks(stored, size), torch.tensor([mask.presence for mask in stored])
                frame = None if index in unread else next(features)
                tracker.recall(index, masks.to(self.model.device), scores.to(trajectories), frame)
                continue
            drawn = zip(uids, *tracker.draw(index, next(features)), strict=True)
            yield FrameMasks(index, {uid: _object_mask(logit, score) for uid, logit, score in drawn})

    def _features(self, indices: Sequence[int]) -> Iterator[FrameFeatures]:
        """The features of these frames, one picture each; those of the prompted frames are computed in advance."""
        known = dict(self.kept or {})
        known |= self._encoded({index: picture for index, picture in self.key_pictures.items() if index not in known})
        unknown = [index for index in indices if index not in known]
        if not unknown:
            yield from (known[index] for index in indices)
            return
        for chunk in _chunks(self.clip.frames(indices), ENCODED_AT_ONCE):
            encoded = self._encoded({index: picture for index, picture in chunk if index not in known})
            for index, _ in chunk:
                yield encoded[index] if index in encoded else known[index]

    def _encoded(self, pictures: Mapping[int, np.ndarray]) -> dict[int, FrameFeatures]:
        if not pictures:
            return {}
        pixels = self.processor.mask_pixels(list(pictures.values())).to(self.model.device)
        features = self.model.encode_frames(pixels)
        encoded = {index: features[row : row + 1] for row, index in enumerate(pictures)}
        if self.kept is not None and (len(self.kept) + len(encoded)) * features[:1].nbytes <= KEPT_BYTES:
            self.kept |= encoded
        return encoded


def _object_mask(logit: Tensor, object_score: Tensor) -> ObjectMask:
    """Score: probability that the object is visible, times the certainty of its pixels (1 - presence if absent)."""
    mask, presence = logit > 0, float(object_score.sigmoid())
    if not mask.any():
        return ObjectMask(None, 1.0 - presence if presence < 0.5 else 0.0, float(object_score))
    sureness = float(logit[mask].sigmoid().mean())
    return ObjectMask(rle.encode(mask.cpu().numpy()), presence * sureness, float(object_score))


def _stacked_masks(masks: Sequence[ObjectMask], size: tuple[int, int]) -> Tensor:
    """Masks bool (R, H, W), empty where an object is absent."""
    decoded = [np.zeros(size, bool) if mask.rle is None else rle.decode(mask.rle) for mask in masks]
    return torch.from_numpy(np.stack(decoded))


def _chunks(frames: Iterable[tuple[int, np.ndarray]], size: int) -> Iterator[list[tuple[int, np.ndarray]]]:
    rest = iter(frames)
    while chunk := list(islice(rest, size)):
        yield chunk
