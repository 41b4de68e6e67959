"""Propagation by memory: an engine's own SAM 2, with painted masks as its prompted frames.

Between two painted frames the tracker runs forwards from the earlier and backwards from the later one. Both passes
know both painted frames, and others nearby. A pass ends at painted frames, so its errors do not get past them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import torch
from torch import Tensor

from trajseg.correction.propagator import Drawn, GapPropagator, Painted, Span, agreed
from trajseg.correction.windows import Windows
from trajseg.model.mask_decoder import FrameFeatures
from trajseg.model.promptable import PromptableSam2
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import Clip

WINDOW = 8
KEPT_BYTES = 2**30
"""Memory limit for the features of the current clip."""

KEY_FRAMES_READ = 2
"""Painted frames known to a pass, the nearest ones: more of them did not help (decision 85)."""


class MemoryPropagator(GapPropagator):
    """Carries masks with a SAM 2; keeps the current clip's features in memory while there is room.

    The score is the probability that the object is there, times the certainty of its pixels and the passes' agreement.
    """

    name = "memory"
    drifts = False

    def __init__(self, sam2: PromptableSam2) -> None:
        self._sam2 = sam2
        self._windows: Windows[FrameFeatures] = Windows(self._window, WINDOW, 2)

    def _rest(self) -> None:
        self._windows.rest()

    @torch.inference_mode()
    def _fill(self, clip: Clip, painted: Painted, span: Span, chosen: Collection[int]) -> Iterator[Drawn]:
        earlier = dict(self._carry(clip, painted, span, span.forward, backwards=False))
        later = dict(self._carry(clip, painted, span, span.backward, backwards=True))
        for index in range(span.first, span.last + 1):
            if index in chosen:
                yield self._joined(clip, span, painted, index, earlier.get(index), later.get(index))

    def _carry(
        self, clip: Clip, painted: Painted, span: Span, frames: range, backwards: bool
    ) -> Iterator[tuple[int, tuple[Tensor, float]]]:
        """One pass: (index, (probabilities [h, w], probability that the object is there))."""
        if not frames:
            return
        tracker = self._sam2.tracker(len(clip), backwards)
        ends = [key for key in (span.before, span.after) if key is not None]
        near = sorted(painted, key=lambda key: min(abs(key - end) for end in ends))[:KEY_FRAMES_READ]
        for key in near:
            tracker.paint(key, self._windows.get(clip, key), self._sam2.painted([painted[key]]))
        for index in frames:
            decoded = tracker.step(index, self._windows.get(clip, index), None)
            yield index, (decoded.logits[0].sigmoid(), float(decoded.score[0].sigmoid()))

    def _joined(
        self,
        clip: Clip,
        span: Span,
        painted: Painted,
        index: int,
        before: tuple[Tensor, float] | None,
        after: tuple[Tensor, float] | None,
    ) -> Drawn:
        near = span.nearness(index)
        sides = [(side, n) for side, n in zip((before, after), near, strict=True) if side is not None]
        stack = torch.stack([side[0] for side, _ in sides]).logit(1e-6)
        logits = self._sam2.logits(stack, (clip.height, clip.width))
        weights = [n * (abs(side[1] - 0.5) + 0.02) for side, n in sides]
        presence = sum(w * side[1] for w, (side, _) in zip(weights, sides, strict=True)) / sum(weights)
        masks = [(logit > 0) & (side[1] > 0.5) for logit, (side, _) in zip(logits, sides, strict=True)]
        agreement = None
        if span.shown_at_both_ends(painted):
            agreement = region_similarity(masks[0].cpu().numpy(), masks[1].cpu().numpy())
        shown = [(logit, w) for logit, w, (side, _) in zip(logits, weights, sides, strict=True) if side[1] > 0.5]
        if presence < 0.5 or not shown:
            mask = np.zeros((clip.height, clip.width), bool)
            sure = 1.0 - presence
        else:
            joined = sum(logit.sigmoid() * w for logit, w in shown) / sum(w for _, w in shown)
            mask = (joined > 0.5).cpu().numpy()
            sure = presence * float(joined[joined > 0.5].mean()) if mask.any() else 0.0
        return Drawn(index, mask, agreed(sure, agreement), agreement)

    def _window(self, pictures: Iterator[tuple[int, np.ndarray]]) -> list[FrameFeatures]:
        frames = [picture for _, picture in pictures]
        features = self._sam2.encode(frames)
        size = sum(part.element_size() * part[:1].numel() for part in (features.top, features.s0, features.s1))
        self._windows.room = max(2, KEPT_BYTES // (size * WINDOW))
        return [features[i : i + 1] for i in range(len(frames))]
