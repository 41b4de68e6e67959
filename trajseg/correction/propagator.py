"""The interface of propagators, which carry masks that a person painted to the frames around them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np

from trajseg.errors import InputError
from trajseg.progress import Progress
from trajseg.video import Clip

Painted = dict[int, np.ndarray]
"""0-based frame -> the mask, bool [H, W], that a person vouches for there; an empty mask says "not here"."""


@dataclass(frozen=True)
class Drawn:
    """A propagator's result for one frame.

    Args:
        index: frame of the clip, 0-based.
        mask: bool [H, W]; all False if the object is not in the picture.
        score: its certainty, 0 to 1; 1 on painted frames.
        agreement: IoU of the masks from the painted frame before and from the one after, 0 to 1; None unless both
            painted frames around it show the object.
    """

    index: int
    mask: np.ndarray
    score: float
    agreement: float | None = None


@runtime_checkable
class Propagator(Protocol):
    """Carries painted masks to other frames; see FlowPropagator and MemoryPropagator."""

    name: str
    """Short, lower case; the provenance of the frames that it drew."""
    drifts: bool
    """Whether its errors grow with the distance from the painted frames; otherwise they are the same everywhere."""

    def propagate(
        self,
        clip: Clip,
        painted: Painted,
        frames: Collection[int] | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Drawn]:
        """Yields the wanted frames in time order, each once; painted ones exactly as painted.

        Args:
            clip: an open clip.
            painted: at least one mask, each of the clip's frame size.
            frames: the wanted 0-based frames; None: all.
            progress: called with (frames done, frames in total); an exception from it ends the run.

        Raises:
            InputError: nothing is painted, or a mask has another size or is on a frame that the clip lacks.
            VideoError: the video can no longer be read.
        """


@dataclass(frozen=True)
class Span:
    """A run of unpainted frames, and the painted frames on either side of it.

    Args:
        before, after: the adjacent painted frames; None at the clip's beginning or end.
        first, last: the first and last wanted frame in it, so what lies beyond need not be drawn.
    """

    before: int | None
    after: int | None
    first: int
    last: int

    @property
    def forward(self) -> range:
        """Frames for the pass from the painted frame before, in its order."""
        return range(0) if self.before is None else range(self.before + 1, self.last + 1)

    @property
    def backward(self) -> range:
        """Frames for the pass from the painted frame after, in its order."""
        return range(0) if self.after is None else range(self.after - 1, self.first - 1, -1)

    def shown_at_both_ends(self, painted: Painted) -> bool:
        """Whether there is a painted frame on either side and both show the object."""
        return all(key is not None and bool(painted[key].any()) for key in (self.before, self.after))

    def nearness(self, index: int) -> tuple[float, float]:
        """The weights of the pass from before and the one from after on a frame; they sum to 1."""
        if self.before is None or self.after is None:
            return float(self.before is not None), float(self.after is not None)
        share = (index - self.before) / (self.after - self.before)
        return 1.0 - share, share


class GapPropagator(ABC):
    """A propagator that fills the gaps between painted frames one at a time: the common part of flow and memory."""

    def propagate(
        self,
        clip: Clip,
        painted: Painted,
        frames: Collection[int] | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Drawn]:
        """See Propagator."""
        check_painted(clip, painted)
        wanted = sorted(range(len(clip)) if frames is None else set(frames))
        chosen = set(wanted)
        gaps = spans(len(clip), painted, wanted)
        drawn = (one for span in gaps for one in self._fill(clip, painted, span, chosen))
        try:
            for done, index in enumerate(wanted, 1):
                yield Drawn(index, painted[index].copy(), 1.0) if index in painted else next(drawn)
                if progress:
                    progress(done, len(wanted))
        finally:
            self._rest()

    @abstractmethod
    def _fill(self, clip: Clip, painted: Painted, span: Span, chosen: Collection[int]) -> Iterator[Drawn]:
        """The chosen frames of a gap, in time order."""

    @abstractmethod
    def _rest(self) -> None:
        """Closes the clip's file."""


def agreed(sure: float, agreement: float | None) -> float:
    """The score of a frame: the certainty of its pixels, halved if the passes have nothing in common."""
    return sure * (1.0 if agreement is None else (1 + agreement) / 2)


def spans(count: int, painted: Collection[int], frames: Collection[int]) -> Iterator[Span]:
    """The gaps between painted frames that contain wanted frames, in time order.

    Args:
        count: frames in the clip.
        painted: 0-based frames; at least one.
        frames: the wanted ones.
    """
    keys = sorted(painted)
    wanted = sorted(set(frames) - set(keys))
    edges: list[int | None] = [None, *keys, None]
    for before, after in pairwise(edges):
        low, high = -1 if before is None else before, count if after is None else after
        inside = [index for index in wanted if low < index < high]
        if inside:
            yield Span(before, after, inside[0], inside[-1])


def check_painted(clip: Clip, painted: Painted) -> None:
    """Validates painted masks.

    Raises:
        InputError: nothing is painted, or a mask has another size or is on a frame that the clip lacks.
    """
    if not painted:
        raise InputError("No frame is painted, so there is nothing to propagate.", "Paint the object on one frame.")
    for index, mask in painted.items():
        if not 0 <= index < len(clip):
            raise InputError(
                f"Frame {index} is painted, but the clip has {len(clip)} frames, counted from 0.",
                "Check that the masks belong to this clip.",
            )
        if mask.shape != (clip.height, clip.width) or mask.dtype != np.bool_:
            raise InputError(
                f"The mask of frame {index} is {mask.dtype} {list(mask.shape)}, "
                f"the clip needs bool [{clip.height}, {clip.width}].",
                "Give one boolean mask of the clip's size per frame.",
            )
