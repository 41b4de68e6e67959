"""A long clip with 8 objects, and the size of this process while an engine goes through it.

HEIGHT=720 and FRAMES=1000 make it larger and longer.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np

OBJECTS = 8
HEIGHT = int(os.environ.get("HEIGHT", "360"))
WIDTH = HEIGHT * 16 // 9
FRAMES = int(os.environ.get("FRAMES", "150"))
SECONDS = max(1800, 4 * FRAMES)
"""Time limit of a test."""
ALLOWED = 40 * 2**20
"""Bytes by which the size in the last third may exceed that in the first: masks of 8 objects as run-length codes.

Masks of 100 frames of 360p that are kept as pictures have four times as many.
"""
SIDE = HEIGHT * 5 // 18
STEP = SIDE * 3 // 2
PLACES = [(x, y) for y in range(SIDE // 2, HEIGHT - SIDE, STEP) for x in range(SIDE // 5, WIDTH - SIDE, STEP)]
COLOURS = [(215, 35, 40), (45, 165, 60), (40, 75, 215), (240, 225, 45)] * 2


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Sizes:
    """The size of this process in the first and in the last third of the frames, once the caches are full.

    What the allocator holds goes up and down from frame to frame, of 720p by 40 to 150 MB, so single frames are not
    compared.
    """

    def __init__(self) -> None:
        self.first: list[int] = []
        self.last: list[int] = []

    def note(self, index: int) -> None:
        """Measures after a frame; with -s prints every hundredth."""
        size = resident()
        if index % 100 == 0:
            print(f"frame {index}: {size / 1e9:.3f} GB", flush=True)
        if FRAMES // 12 <= index < FRAMES // 3:
            self.first.append(size)
        elif index >= 2 * FRAMES // 3:
            self.last.append(size)

    @property
    def growth(self) -> int:
        """Of the largest size."""
        return max(self.last) - max(self.first)

    @property
    def growth_of_smallest(self) -> int:
        """Of the smallest size: what is never given back, where the largest swings."""
        return min(self.last) - min(self.first)


def pictures() -> Iterator[np.ndarray]:
    """FRAMES pictures: eight squares before noise, and a bar that passes before them."""
    base = np.random.default_rng(0).integers(60, 120, (HEIGHT, WIDTH, 3), np.uint8)
    for (x, y), colour in zip(PLACES, COLOURS, strict=True):
        base[y : y + SIDE, x : x + SIDE] = colour
    for index in range(FRAMES):
        frame = base.copy()
        frame[:, index % WIDTH : index % WIDTH + 20] = 30
        yield frame
