"""Memory stays flat in the number of frames: 420 frames of 720p with 8 objects, at tiny size.

FRAMES=1000 runs it on more frames; with -s it prints the measurements.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.trajseg.engines.grounded import checkpoints
from trajseg.engines.grounded.chooser import LocalChooser
from trajseg.engines.grounded.choosing import Choice
from trajseg.engines.grounded.detector import Detection
from trajseg.engines.grounded.engine import GroundedEngine
from trajseg.engines.grounded.sam2 import load_sam2
from trajseg.engines.grounded.settings import GroundedSettings
from trajseg.video import open_clip, write_video

WIDTH, HEIGHT, OBJECTS = 1280, 720, 8
FRAMES = int(os.environ.get("FRAMES", "420"))
ALLOWED = 40 * 2**20
"""Bytes by which the largest size in the last third may exceed that in the first: RLE masks of 8 objects. The
allocator's memory fluctuates by as much between frames, so single frames are not compared."""

SHIPPED = Path(__file__).parents[4] / "trajseg" / "checkpoints" / "trajseg-tiny"
"""Its SAM 2 is trained: one with random weights draws the same mask for all boxes."""
PLACES = [(x, y) for y in (100, 400) for x in range(40, 1200, 300)]
COLOURS = [(215, 35, 40), (45, 165, 60), (40, 75, 215), (240, 225, 45)] * 2
SIDE = 200


class StillDetector:
    """A fake: eight fixed boxes."""

    def detect(self, frames: Sequence[np.ndarray], phrases: Sequence[str], least: float) -> list[list[Detection]]:
        seen = [Detection((x, y, x + SIDE, y + SIDE), 0.9, phrases[0]) for x, y in PLACES]
        return [seen for _ in frames]


def resident() -> int:
    """Resident memory of this process, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Sizes:
    """The largest size of this process in the first and in the last third of the frames, once the caches are full."""

    def __init__(self) -> None:
        self.first = self.last = 0

    def note(self, index: int) -> None:
        if index % 100 == 0:
            print(f"frame {index}: {resident() / 1e9:.3f} GB", flush=True)
        if FRAMES // 12 <= index < FRAMES // 3:
            self.first = max(self.first, resident())
        elif index >= 2 * FRAMES // 3:
            self.last = max(self.last, resident())

    @property
    def growth(self) -> int:
        assert self.first
        assert self.last
        return self.last - self.first


def pictures() -> Iterator[np.ndarray]:
    """Eight squares on noise, and a bar that passes in front of them."""
    base = np.random.default_rng(0).integers(60, 120, (HEIGHT, WIDTH, 3), np.uint8)
    for (x, y), colour in zip(PLACES, COLOURS, strict=True):
        base[y : y + SIDE, x : x + SIDE] = colour
    for index in range(FRAMES):
        frame = base.copy()
        frame[:, index % WIDTH : index % WIDTH + 20] = 30
        yield frame


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(4 * FRAMES)
def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    clip = open_clip(write_video(tmp_path / "long.mp4", pictures(), 25.0, crf=40))
    engine = GroundedEngine(
        StillDetector(),
        load_sam2(SHIPPED),
        LocalChooser.from_pretrained(checkpoints.save_qwen3_vl(tmp_path / "chooser")),
        GroundedSettings(every=1.0, frames=2, longest=128, portrait=32),
    )
    searching, drawing = Sizes(), Sizes()
    found = engine.find(clip, "the object", lambda done, total: searching.note(done))
    count = len(found.candidates)
    assert count == OBJECTS
    assert searching.growth < ALLOWED
    # Whatever the untrained chooser answered: all of them.
    found = replace(found, choice=Choice(dict.fromkeys(range(count), 1.0)))
    for frame in engine.segmentation(clip, found):
        assert len(frame.masks) == count
        drawing.note(frame.index)
    assert drawing.growth < ALLOWED
