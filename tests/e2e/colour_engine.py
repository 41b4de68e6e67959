"""An engine that finds the colours an instruction names: what the page does must not hang on how a model was trained.

Given to the worker as `colour_engine:build`.
"""

from __future__ import annotations

import numpy as np

from trajseg.engines.base import Progress, check_instruction
from trajseg.shapes.world.scenes import RGB
from trajseg.tracks import MaskTrack, Result
from trajseg.video import Clip

NEAR = 90
"""Sum of the channels' differences up to which a pixel has a colour."""
FEWEST = 8
"""Pixels; fewer are no object."""


class ColourEngine:
    """One track for each colour of the shapes world that the instruction names and the clip shows."""

    model_version = "colour_engine:build"

    def segment(self, clip: Clip, instruction: str, progress: Progress | None = None) -> Result:
        instruction = check_instruction(instruction)
        masks: dict[str, list[np.ndarray]] = {name: [] for name in RGB if name in instruction}
        for index, rgb in clip.frames():
            for name, found in masks.items():
                mask = np.abs(rgb.astype(int) - RGB[name]).sum(axis=2) < NEAR
                found.append(mask & (mask.sum() >= FEWEST))
            if progress:
                progress(index + 1, len(clip))
        shown = {name: found for name, found in masks.items() if any(mask.any() for mask in found)}
        tracks = [
            MaskTrack.from_masks(
                f"t{number}",
                found,
                clip.frame_map.times,
                [0.9 if mask.any() else 0.0 for mask in found],
                label=f"track-{number}",
                caption=f"something {name}",
                instruction=instruction,
            )
            for number, (name, found) in enumerate(shown.items(), 1)
        ]
        return Result(
            video=str(clip.path),
            fps=clip.fps,
            width=clip.width,
            height=clip.height,
            frame_count=len(clip),
            instruction=instruction,
            answer=", ".join(shown) or "there is none",
            model_version=self.model_version,
            tracks=tracks,
        )


def build(device: str) -> ColourEngine:
    return ColourEngine()
