"""Engines that find the colours in an instruction, so that tests of the page do not depend on a trained model.

The worker loads them as `colour_engine:build` and so on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from tests.scripted import ScriptedEngine
from trajseg.engines.base import EngineSpec
from trajseg.progress import Progress
from trajseg.shapes.world.scenes import RGB
from trajseg.tracks import MaskTrack
from trajseg.video import Clip

NEAR = 90
"""Maximum sum of channel differences for a pixel to have a colour."""
CAPTION_SECONDS = 20.0
FEWEST = 8
"""Minimum pixels of an object."""
LATE = 10
"""Frames at the start on which LateEngine finds nothing."""


class ColourEngine(ScriptedEngine):
    """One track per colour of the shapes world in the instruction and the clip."""

    spec = EngineSpec(name="colours", model_version="colours", several=True, none=True)
    colours = tuple(RGB)
    absent = 0.0

    def __init__(self, device: str = "") -> None:
        pass

    def named(self, clip: Clip, instruction: str) -> list[str]:
        named = super().named(clip, instruction)
        return [name for name in named if any(self.mask(rgb, name, index).any() for index, rgb in clip.frames())]

    def mask(self, rgb: np.ndarray, name: str, index: int) -> np.ndarray:
        """Pixels of a colour, bool [H, W]; all False if there are too few for an object."""
        mask: np.ndarray = np.abs(rgb.astype(int) - RGB[name]).sum(axis=2) < NEAR
        return mask & (mask.sum() >= FEWEST)


class LateEngine(ColourEngine):
    """Finds nothing on the first LATE frames, so that it disagrees with ColourEngine there."""

    spec = EngineSpec(name="late", model_version="late", several=True, none=True)

    def mask(self, rgb: np.ndarray, name: str, index: int) -> np.ndarray:
        return super().mask(rgb, name, index) & (index >= LATE)


class DescribingEngine(ColourEngine):
    """Also captions tracks, so slowly that a person opens the task before the captions arrive."""

    spec = EngineSpec(name="describing", model_version="describing", several=True, none=True, captions=True)

    def caption(self, clip: Clip, tracks: Sequence[MaskTrack], progress: Progress | None = None) -> list[str]:
        if tracks:
            time.sleep(CAPTION_SECONDS)
        return ["something that was painted" for _ in tracks]


build = ColourEngine
late = LateEngine
describing = DescribingEngine
