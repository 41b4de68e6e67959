"""Windows: what is computed from a clip's frames, read in any order and kept while there is room.

A video decodes forwards only. Passes that run backwards in time, and several passes over the same clip, take
what they need from windows of consecutive frames, which are computed together and forgotten oldest first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np

from trajseg.video import Clip

Item = TypeVar("Item")


class Windows(Generic[Item]):
    """One item a frame of the clip that was read last.

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
        self._missed = -1
        self._reader: Iterator[tuple[int, np.ndarray]] | None = None
        self._next = 0
        self._tail: list[tuple[int, np.ndarray]] = []

    def get(self, clip: Clip, index: int) -> Item:
        """The item of frame `index` (0-based), computed with its neighbours when it is not at hand."""
        stat = clip.path.stat()
        name = (clip.path, stat.st_mtime_ns, stat.st_size)
        if name != self._clip:
            self._kept.clear()
            self.rest()
            self._clip = name
        number = index // self.length
        if number not in self._kept:
            # Every step back decodes the clip from its beginning, so a pass that comes from the end takes many at once.
            falling = self._missed > number >= self._missed - self.room
            self._missed = number
            for each in range(max(0, number + 1 - self.room // 2) if falling else number, number + 1):
                if each not in self._kept:
                    self._keep(clip, each)
        self._kept.move_to_end(number)
        return self._kept[number][index - number * self.length]

    def rest(self) -> None:
        """Close the file; items stay."""
        self._reader, self._tail = None, []

    def _keep(self, clip: Clip, number: int) -> None:
        while len(self._kept) >= self.room:
            self._kept.popitem(last=False)
        start = number * self.length
        stop = min(len(clip), start + self.length + self._overlap)
        self._kept[number] = self._compute(self._pictures(clip, start, stop))

    def _pictures(self, clip: Clip, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """The pictures `start` to `stop`, from where reading stopped before, if that is not too far on."""
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
