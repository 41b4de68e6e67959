"""An engine that finds the colours in an instruction, so that tests of the page do not depend on a trained model.

The worker loads it as `colour_engine:build`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from trajseg.engines.base import (
    PLAIN,
    EngineSpec,
    FrameMasks,
    ObjectMask,
    RunContext,
    TrackedObject,
    check_instruction,
)
from trajseg.engines.segmentation import Segmentation
from trajseg.progress import Progress
from trajseg.shapes.world.scenes import RGB
from trajseg.tracks import MaskTrack
from trajseg.video import Clip

NEAR = 90
"""Maximum sum of channel differences for a pixel to have a colour."""
CAPTION_SECONDS = 20.0
FEWEST = 8
"""Minimum pixels of an object."""


class ColourEngine:
    """One track per colour of the shapes world in the instruction and the clip."""

    spec = EngineSpec(name="colours", model_version="colours", several=True, none=True)

    def __init__(self, device: str = "") -> None:
        pass

    def segment(self, clip: Clip, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        instruction = check_instruction(instruction)
        colours = [name for name in RGB if name in instruction]
        shown = [name for name in colours if any(mask_of(rgb, name).any() for _, rgb in clip.frames())]
        objects = TrackedObject.numbered([f"something {name}" for name in shown])
        done = context.done_of(objects)
        return Segmentation(
            spec=self.spec,
            clip=clip,
            instruction=instruction,
            objects=objects,
            frames=self.frames(clip, shown, {frame.index for frame in done}),
            answer=", ".join(shown) or "there is none",
            done=done,
        )

    def frames(self, clip: Clip, colours: list[str], done: set[int]) -> Iterator[FrameMasks]:
        for index, rgb in clip.frames([index for index in range(len(clip)) if index not in done]):
            masks = [mask_of(rgb, name) for name in colours]
            scored = [ObjectMask.of(mask, 0.9 if mask.any() else 0.0) for mask in masks]
            yield FrameMasks(index, {f"t{number}": mask for number, mask in enumerate(scored, 1)})


def mask_of(rgb: np.ndarray, name: str) -> np.ndarray:
    """Pixels of a colour, bool [H, W]; all False if there are too few for an object."""
    mask: np.ndarray = np.abs(rgb.astype(int) - RGB[name]).sum(axis=2) < NEAR
    return mask & (mask.sum() >= FEWEST)


class DescribingEngine(ColourEngine):
    """Also captions tracks, so slowly that a person opens the task before the captions arrive."""

    spec = EngineSpec(name="describing", model_version="describing", several=True, none=True, captions=True)

    def caption(self, clip: Clip, tracks: Sequence[MaskTrack], progress: Progress | None = None) -> list[str]:
        if tracks:
            time.sleep(CAPTION_SECONDS)
        return ["something that was painted" for _ in tracks]


build = ColourEngine
describing = DescribingEngine
