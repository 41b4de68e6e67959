"""Propagation by optical flow: painted masks follow the motion, without a model and without training.

Each painted frame is carried to the next painted frame in both directions of time. A frame's pixels are traced back to
the painted frame by one composed displacement, so the mask is resampled only once, however far it goes. If the flow
forth and back does not return to its start (occlusion, noise), a pixel loses reliability, and the pass from the other
side decides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest

import cv2
import numpy as np

from trajseg.correction.flow_fields import FlowFields, grid, squared
from trajseg.correction.propagator import Drawn, GapPropagator, Painted, Span, agreed
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import Clip

TOLERANCE = 1.5
"""Forward-backward error in pixels at which a pixel has lost half of its reliability."""

COLOUR_TOLERANCE = 30.0
"""Difference in grey levels from its origin in the painted frame at which a pixel has lost half of its reliability."""

HIDDEN = 0.2
"""Reliability by colour below which a pixel of the mask counts as something in front of the object."""

LOST = 0.08
"""Mean reliability of a mask's pixels below which the object is considered absent: specks that match by chance."""

MEETING = 4.0
"""Distance of the two passes' edges, in pixels, up to which they are averaged; beyond, the more reliable pass wins."""

BAND = 15.0
"""Pixels from a mask's edge within which the distance is stored; beyond, a pixel is just inside or outside."""


@dataclass(frozen=True)
class Pass:
    """One direction's result for a frame.

    Args:
        top, left: of the region where the object may be, pixels.
        distance: signed distance to the mask's edge in that region, 1/8 pixel, positive inside, int8 [h, w].
        likeness: colour similarity of each pixel of that region to its origin, 1/255, uint8 [h, w].
        trust: reliability of the whole picture's pixels by flow and colour, 1/255, uint8, at half the working size.
    """

    top: int
    left: int
    distance: np.ndarray
    likeness: np.ndarray
    trust: np.ndarray

    def whole(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distance in pixels, trust and likeness in 0 to 1, all float32 [height, width]."""
        inside = np.s_[self.top : self.top + self.distance.shape[0], self.left : self.left + self.distance.shape[1]]
        distance = np.full((height, width), -BAND, np.float32)
        likeness = np.zeros((height, width), np.float32)
        distance[inside] = self.distance.astype(np.float32) / 8
        likeness[inside] = self.likeness.astype(np.float32) / 255
        return distance, cv2.resize(self.trust, (width, height)).astype(np.float32) / 255, likeness


class FlowPropagator(GapPropagator):
    """Carries masks with OpenCV's DIS optical flow; keeps the current clip's flow in memory while there is room.

    The score is the reliability of the mask's pixels, times the agreement of both passes.
    """

    name = "flow"
    drifts = True

    def __init__(self) -> None:
        self._fields = FlowFields()

    def _rest(self) -> None:
        self._fields.rest()

    def _fill(self, clip: Clip, painted: Painted, span: Span, chosen: Collection[int]) -> Iterator[Drawn]:
        # Only the backward pass is stored; its last entries come first in the span.
        later = list(self._carry(clip, painted, span.after, span.backward))[::-1]
        earlier = self._carry(clip, painted, span.before, span.forward)
        if span.before is not None:
            earlier = islice(earlier, span.first - span.before - 1, None)
        inside = range(span.first, span.last + 1)
        for index, before, after in zip_longest(inside, earlier, later[: len(inside)]):
            if index in chosen:
                yield self._joined(clip, span, painted, index, before, after)

    def _carry(self, clip: Clip, painted: Painted, key: int | None, frames: range) -> Iterator[Pass]:
        """The mask of the painted frame `key` on each of `frames`, which lead away from it one by one."""
        if key is None:
            return
        width, height = self._fields.size(clip)
        identity = grid(width, height)
        source = signed_distance(painted[key])
        origin = self._fields.picture(clip, key)
        traced = identity
        trust = np.ones((height, width), np.float32)
        at = key
        for index in frames:
            back, miss = self._fields.step(clip, at, index)
            to = identity + back
            traced = cv2.remap(traced, to, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
            old = cv2.remap(trust, to, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)  # type: ignore[call-overload]
            trust = np.minimum(old, 1 / (1 + miss / TOLERANCE**2))
            there = cv2.remap(origin, traced, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
            change = squared(cv2.subtract(there, self._fields.picture(clip, index), dtype=cv2.CV_32F))
            likeness = 1 / (1 + change / COLOUR_TOLERANCE**2)
            at = index
            yield _view(source, traced, trust * likeness, likeness)

    def _joined(
        self, clip: Clip, span: Span, painted: Painted, index: int, before: Pass | None, after: Pass | None
    ) -> Drawn:
        sides = [side for side in (before, after) if side is not None]
        fields = [side.whole(clip.height, clip.width) for side in sides]
        agreement = None
        if len(sides) == 1:
            distance, trust, likeness = fields[0]
        else:
            near = span.nearness(index)
            # Fourth powers, so that a doubtful pass has little weight against a reliable one.
            shares = [n * (trust**4 + 1e-4) for n, (_, trust, _) in zip(near, fields, strict=True)]
            share = shares[0] / (shares[0] + shares[1])
            ways = [(np.clip(far, -MEETING, MEETING), trust, likeness) for far, trust, likeness in fields]
            distance, trust, likeness = (a * share + b * (1 - share) for a, b in zip(*ways, strict=True))
            if span.shown_at_both_ends(painted):
                agreement = region_similarity(fields[0][0] > 0, fields[1][0] > 0)
        mask = (distance > 0) & (cv2.GaussianBlur(likeness, (0, 0), 1.0) > HIDDEN)
        sure = float(trust[mask].mean()) if mask.any() else 0.0
        if sure < LOST:
            mask, sure = np.zeros_like(mask), 0.5
        return Drawn(index, mask, agreed(sure, agreement), agreement)


def _view(source: np.ndarray, traced: np.ndarray, trust: np.ndarray, likeness: np.ndarray) -> Pass:
    """One pass's result for a frame, at the clip's size: source [H, W], the others at the working size."""
    height, width = source.shape
    half = cv2.resize(trust, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    factor = width / traced.shape[1], height / traced.shape[0]
    if factor != (1.0, 1.0):
        # Pixel centres, as in cv2.resize.
        traced = (cv2.resize(traced, (width, height)) + 0.5) * np.array(factor, np.float32) - 0.5
        likeness = cv2.resize(likeness, (width, height))
    distance = cv2.remap(source, traced, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=-BAND)  # type: ignore[call-overload]
    left, top, w, h = cv2.boundingRect((distance > -BAND).astype(np.uint8))
    cut = np.s_[top : top + h, left : left + w]
    return Pass(
        top,
        left,
        np.round(distance[cut] * 8).astype(np.int8),
        np.round(likeness[cut] * 255).astype(np.uint8),
        np.round(half * 255).astype(np.uint8),
    )


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Pixels to the edge of a mask bool [H, W], positive inside, at most BAND: float32 [H, W]."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    if not mask.any():
        return np.full(mask.shape, -BAND, np.float32)
    # The edge runs between pixels: half a pixel from the centres of either side.
    signed = np.where(mask, inside - 0.5, 0.5 - outside) if not mask.all() else np.full(mask.shape, BAND)
    return np.clip(signed, -BAND, BAND).astype(np.float32)
