"""An engine without a model, for tests that need one whose answers are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

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
from trajseg.video import Clip, open_clip


class ScriptedEngine:
    """An engine that finds saturated red, green and blue if the instruction names them."""

    spec = EngineSpec(name="scripted", model_version="scripted", several=True, none=True)

    def segment(self, clip: Clip | str | Path, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        """One object per named colour; a red, green or blue pixel exceeds its other channels by 80."""
        clip, instruction = open_clip(clip), check_instruction(instruction)
        colours = [name for name in ("red", "green", "blue") if name in instruction.lower()]
        objects = TrackedObject.numbered([f"something {name}" for name in colours])
        done = context.done_of(objects)
        return Segmentation(
            spec=self.spec,
            clip=clip,
            instruction=instruction,
            objects=objects,
            frames=self.frames(clip, colours, {frame.index for frame in done}),
            answer=", ".join(colours) or "there is none",
            done=done,
        )

    def frames(self, clip: Clip, colours: Sequence[str], done: set[int]) -> Iterator[FrameMasks]:
        for index, rgb in clip.frames([index for index in range(len(clip)) if index not in done]):
            masks = {}
            for number, name in enumerate(colours, 1):
                channel = ("red", "green", "blue").index(name)
                others = np.delete(rgb, channel, axis=2).max(axis=2).astype(int)
                masks[f"t{number}"] = ObjectMask.of(rgb[..., channel] - others > 80, 0.9)
            yield FrameMasks(index, masks)
