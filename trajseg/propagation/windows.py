"""Windows: what is worked out of a clip's frames, read in any order and kept while there is room.

A video decodes forwards only. Passes that run backwards in time, and several passes over the same clip, take
what they need from windows of consecutive frames, which are worked out together and forgotten oldest first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np

from trajseg.video import Clip

Item = TypeVar("Item")


class Windows(Generic[Item]):
    """One item a frame of the clip that was asked for last.

    Args:
        compute: makes the items of consecutive frames from (index, picture) pairs; `overlap` more pictures
            than items are given as far as the clip has them.
        length: frames a window.
        room: windows kept; at least 2.
        overlap: pictures that an item needs after its own.
    """

    def __init__(
        self,
        compute: Callable[[Iterator[tuple[int, np.ndarray]]], list[Item]],
        length: int,
        room: int,
        overlap: int = 0,
    ) -> None:
        self._compute, self.length, self.room, self._overlap = compute, length, room, overlap
        self._kept: OrderedDict[int, list[Item]] = OrderedDict()
        self._clip: tuple[object, ...] = ()

    def get(self, clip: Clip, index: int) -> Item:
        """The item of frame `index` (0-based), worked out with its neighbours when it is not at hand."""
        stat = clip.path.stat()
        name = (clip.path, stat.st_mtime_ns, stat.st_size)
        if name != self._clip:
            self._kept.clear()
            self._clip = name
        number = index // self.length
        if number not in self._kept:
            while len(self._kept) >= self.room:
                self._kept.popitem(last=False)
            start = number * self.length
            stop = min(len(clip), start + self.length + self._overlap)
            self._kept[number] = self._compute(clip.frames(range(start, stop)))
        self._kept.move_to_end(number)
        return self._kept[number][index - number * self.length]
