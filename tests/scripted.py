"""An engine without a model, for tests that need one whose answers are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

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
    """An engine that finds saturated red, green and blue if the instruction names them.

    Subclasses may know other colours, and find some of them on some frames only.
    """

    spec = EngineSpec(name="scripted", model_version="scripted", several=True, none=True)
    colours: ClassVar[Sequence[str]] = ("red", "green", "blue")
    absent: ClassVar[float] = 0.9
    """Score of frames without a mask."""

    def segment(self, clip: Clip | str | Path, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        """One object per colour that `named` returns."""
        clip, instruction = open_clip(clip), check_instruction(instruction)
        names = self.named(clip, instruction)
        objects = TrackedObject.numbered([f"something {name}" for name in names])
        done = context.done_of(objects)
        return Segmentation(
            spec=self.spec,
            clip=clip,
            instruction=instruction,
            objects=objects,
            frames=self.frames(clip, names, {frame.index for frame in done}),
            answer=", ".join(names) or "there is none",
            done=done,
        )

    def named(self, clip: Clip, instruction: str) -> list[str]:
        """The colours that the instruction names."""
        return [name for name in self.colours if name in instruction.lower()]

    def mask(self, rgb: np.ndarray, name: str, index: int) -> np.ndarray:
        """Pixels of a colour in a frame, bool [H, W]: its channel exceeds the others by 80."""
        channel = ("red", "green", "blue").index(name)
        others = np.delete(rgb, channel, axis=2).max(axis=2).astype(int)
        mask: np.ndarray = rgb[..., channel] - others > 80
        return mask

    def frames(self, clip: Clip, names: Sequence[str], done: set[int]) -> Iterator[FrameMasks]:
        """The masks of every frame that is not done."""
        for index, rgb in clip.frames([index for index in range(len(clip)) if index not in done]):
            masks = {}
            for number, name in enumerate(names, 1):
                mask = self.mask(rgb, name, index)
                masks[f"t{number}"] = ObjectMask.of(mask, 0.9 if mask.any() else self.absent)
            yield FrameMasks(index, masks)
