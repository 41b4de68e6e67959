"""Lost objects: a tracker that has lost its object may paint the whole picture, or jump to something else."""

from __future__ import annotations

from collections import deque
from statistics import median

REMEMBERED = 15
"""Number of latest areas from which an object's usual size is computed."""


class LostObject:
    """Decides for one track, frame by frame, whether its mask still shows the object.

    Args:
        whole: a mask is lost if it covers more than this fraction of the picture and has grown by `growth`.
        growth: factor relative to the median of the previous areas.
        leap: a mask that grows by this factor is lost, however small it is.
    """

    def __init__(self, whole: float = 0.5, growth: float = 2.5, leap: float = 8.0) -> None:
        self._whole, self._growth, self._leap = whole, growth, leap
        self._areas: deque[float] = deque(maxlen=REMEMBERED)

    def anchor(self, share: float) -> None:
        """Records that a detector confirmed the mask, which covers `share` (0 to 1) of the picture."""
        if share > 0:
            self._areas.clear()
            self._areas.append(share)

    def lost(self, share: float) -> bool:
        """Whether a mask that covers `share` (0 to 1) of the picture no longer shows the object.

        An absent object (0) is never lost. Lost masks are not remembered.
        """
        if share <= 0:
            return False
        if self._areas:
            grown = share / median(self._areas)
            if grown > self._leap or (share > self._whole and grown > self._growth):
                return True
        self._areas.append(share)
        return False
