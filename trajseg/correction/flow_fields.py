"""Optical flow of a clip: DIS between neighbouring frames, both ways, with their forward-backward error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from trajseg.correction.windows import Windows
from trajseg.video import Clip

LONGEST_SIDE = 640
"""Longer side, in pixels, at which flow is computed; larger clips are reduced."""

WINDOW = 8
KEPT_BYTES = 256 * 2**20
"""Memory limit for the flow of the current clip."""


@dataclass(frozen=True)
class Moment:
    """A frame t at the working size, and the flow between it and the next one.

    picture: RGB uint8 [h, w, 3], smoothed. to_next: what is at (x, y) in t is at (x, y) + to_next in t + 1, pixels,
    float16 [h, w, 2] (x, y); to_previous the same from t + 1 to t. Both are None at the clip's end.
    """

    picture: np.ndarray
    to_next: np.ndarray | None
    to_previous: np.ndarray | None


class FlowFields:
    """The flow of a clip's frames, kept in memory while there is room."""

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._windows: Windows[Moment] = Windows(self._window, WINDOW, 2, overlap=1)

    def size(self, clip: Clip) -> tuple[int, int]:
        """(width, height) in pixels of the working size."""
        factor = min(1.0, LONGEST_SIDE / max(clip.width, clip.height))
        return max(16, round(clip.width * factor)), max(16, round(clip.height * factor))

    def picture(self, clip: Clip, index: int) -> np.ndarray:
        """Frame `index` at the working size, smoothed: RGB uint8 [h, w, 3]."""
        return self._moment(clip, index).picture

    def step(self, clip: Clip, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Flow from frame `end` back to its neighbour `start`, and its forward-backward error.

        Returns:
            float32 [h, w, 2] in pixels of the working size, and the squared error, float32 [h, w].
        """
        moment = self._moment(clip, min(start, end))
        assert moment.to_next is not None
        assert moment.to_previous is not None
        back, there = moment.to_previous.astype(np.float32), moment.to_next.astype(np.float32)
        if start > end:
            back, there = there, back
        landed = cv2.remap(
            there,
            grid(*back.shape[1::-1]) + back,
            None,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,  # type: ignore[call-overload]
        )
        return back, squared(back + landed)

    def rest(self) -> None:
        """Closes the clip's file; its flow is kept."""
        self._windows.rest()

    def _moment(self, clip: Clip, index: int) -> Moment:
        width, height = self.size(clip)
        self._windows.room = max(2, KEPT_BYTES // (WINDOW * 11 * width * height))
        return self._windows.get(clip, index)

    def _window(self, pictures: Iterator[tuple[int, np.ndarray]]) -> list[Moment]:
        moments: list[Moment] = []
        before: np.ndarray | None = None
        grey_before: np.ndarray | None = None
        for _, picture in pictures:
            after = self._reduced(picture)
            grey = cv2.cvtColor(after, cv2.COLOR_RGB2GRAY)
            if before is not None:
                to_next = self._dis.calc(grey_before, grey, None).astype(np.float16)  # type: ignore[call-overload]
                to_previous = self._dis.calc(grey, grey_before, None).astype(np.float16)  # type: ignore[call-overload]
                moments.append(Moment(_smooth(before), to_next, to_previous))
            before, grey_before = after, grey
        if before is not None:
            # The last picture of a window, unless it is the clip's last, starts the next window.
            moments.append(Moment(_smooth(before), None, None))
        return moments

    def _reduced(self, picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        factor = min(1.0, LONGEST_SIDE / max(width, height))
        size = (max(16, round(width * factor)), max(16, round(height * factor)))
        return cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if size != (width, height) else picture


def squared(vectors: np.ndarray) -> np.ndarray:
    """Squared lengths of vectors [h, w, k]: float32 [h, w]."""
    lengths: np.ndarray = np.einsum("ijk,ijk->ij", vectors, vectors)
    return lengths


def _smooth(picture: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), 1.0)


def grid(width: int, height: int) -> np.ndarray:
    """The position of each pixel: float32 [height, width, 2] (x, y)."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.stack([x, y], axis=2)
