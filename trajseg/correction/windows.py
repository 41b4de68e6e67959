"""Windows: values computed from a clip's frames, accessed in any order and cached while there is room.

Video decodes only forwards. Passes that run backwards in time, and several passes over one clip, read from windows of
consecutive frames that are computed together and evicted oldest first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np

from trajseg.video import Clip

Item = TypeVar("Item")


class Windows(Generic[Item]):
    """One item per frame of the clip that was read last.

    Args:
        compute: computes the items of consecutive frames from (index, picture) pairs; it receives `overlap` more
            pictures than items, as far as the clip has them.
        length: frames per window.
        room: windows kept in memory; at least 2.
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
        self._missed = -1
        self._reader: Iterator[tuple[int, np.ndarray]] | None = None
        self._next = 0
        self._tail: list[tuple[int, np.ndarray]] = []

    def get(self, clip: Clip, index: int) -> Item:
        """The item of frame `index` (0-based), computed together with its neighbours if it is not cached."""
        stat = clip.path.stat()
        name = (clip.path, stat.st_mtime_ns, stat.st_size)
        if name != self._clip:
            self._kept.clear()
            self.rest()
            self._clip = name
        number = index // self.length
        if number not in self._kept:
            # Every step back decodes the clip from its beginning, so a pass from the end computes many at once.
            falling = self._missed > number >= self._missed - self.room
            self._missed = number
            for each in range(max(0, number + 1 - self.room // 2) if falling else number, number + 1):
                if each not in self._kept:
                    self._keep(clip, each)
        self._kept.move_to_end(number)
        return self._kept[number][index - number * self.length]

    def rest(self) -> None:
        """Closes the file; items are kept."""
        self._reader, self._tail = None, []

    def _keep(self, clip: Clip, number: int) -> None:
        while len(self._kept) >= self.room:
            self._kept.popitem(last=False)
        start = number * self.length
        stop = min(len(clip), start + self.length + self._overlap)
        self._kept[number] = self._compute(self._pictures(clip, start, stop))

    def _pictures(self, clip: Clip, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """The pictures `start` to `stop`, continuing where reading stopped if that is not too far back."""
        held = [pair for pair in self._tail if pair[0] >= start]
        if self._reader is None or start < self._next - len(held):
            self._reader, self._next, held = clip.frames(range(start, len(clip))), start, []
        yield from held
        while self._next < stop:
            pair = next(self._reader)
            self._next += 1
            self._tail = [*self._tail, pair][-self._overlap :] if self._overlap else []
            if pair[0] >= start:
                yield pair
