"""Memory stays flat in the number of frames: 8 objects, at tiny size.

HEIGHT=720 FRAMES=1000 runs it on larger and more frames; with -s it prints what it measures.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.trajseg.engines.grounded import checkpoints
from tests.trajseg.engines.long_clip import ALLOWED, OBJECTS, PLACES, SECONDS, SIDE, Sizes, pictures
from trajseg.engines.grounded.chooser import LocalChooser
from trajseg.engines.grounded.choosing import Choice
from trajseg.engines.grounded.detector import Detection
from trajseg.engines.grounded.engine import GroundedEngine
from trajseg.engines.grounded.sam2 import load_sam2
from trajseg.engines.grounded.settings import GroundedSettings
from trajseg.video import open_clip, write_video

SHIPPED = Path(__file__).parents[4] / "trajseg" / "checkpoints" / "trajseg-tiny"
"""Its SAM 2 has learned to see: that of random weights draws the same mask for all boxes."""


class StillDetector:
    """A fake: eight boxes that stay where they are."""

    def detect(self, frames: Sequence[np.ndarray], phrases: Sequence[str], least: float) -> list[list[Detection]]:
        seen = [Detection((x, y, x + SIDE, y + SIDE), 0.9, phrases[0]) for x, y in PLACES]
        return [seen for _ in frames]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(SECONDS)
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
