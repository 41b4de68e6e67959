"""Lost objects: a tracker that has lost what it follows may paint the whole picture, or jump to something else."""

from __future__ import annotations

from collections import deque
from statistics import median

REMEMBERED = 15
"""Areas that the usual size of an object is taken from, the latest ones."""


class LostObject:
    """Tells of one track, frame after frame, whether its mask has become something else.

    Args:
        whole: of the picture; a mask that covers more is lost if it also grew `growth`-fold ...
        growth: ... against the median of the frames before.
        leap: a mask that grew so much at once is lost however small it is.
    """

    def __init__(self, whole: float = 0.5, growth: float = 2.5, leap: float = 8.0) -> None:
        self._whole, self._growth, self._leap = whole, growth, leap
        self._areas: deque[float] = deque(maxlen=REMEMBERED)

    def anchor(self, share: float) -> None:
        """A frame on which a detector vouches for the mask, which covers `share` of the picture."""
        if share > 0:
            self._areas.clear()
            self._areas.append(share)

    def lost(self, share: float) -> bool:
        """Whether a mask that covers `share` (0 to 1) of the picture is no longer of the object.

        Absent objects (0) are never lost. What is lost is not remembered.
        """
        if share <= 0:
            return False
        if self._areas:
            grown = share / median(self._areas)
            if grown > self._leap or (share > self._whole and grown > self._growth):
                return True
        self._areas.append(share)
        return False
