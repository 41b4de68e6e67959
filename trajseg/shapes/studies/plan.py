"""Plan of a run of the studies: checkpoint, seeds and number of clips."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trajseg.checkpoints.folders import checkpoint_folder
from trajseg.engines.trajseg import VideoSegmenter
from trajseg.shapes.studies.cells import fingerprint

SEEDS_APART = 1000
"""Groups of clips begin at seeds so far apart: they have no clip in common."""


@dataclass(frozen=True)
class Plan:
    """How much is measured, and of what.

    Args:
        model: a shipped checkpoint's name, or a folder.
        seeds: each stands for a group of clips of its own, or for a training of its own.
        clips: of each group; None is what each study takes by itself.
        height: rows of the clips, in pixels.
        steps: of each training; None is the recipe's own.
        device: torch's name of a device.
    """

    model: str = "trajseg-tiny"
    seeds: tuple[int, ...] = (0, 1, 2)
    clips: int | None = None
    height: int = 240
    steps: int | None = None
    device: str | None = None

    @property
    def folder(self) -> Path:
        """Of the checkpoint."""
        return checkpoint_folder(self.model)

    def segmenter(self) -> VideoSegmenter:
        """The checkpoint, loaded; raises CheckpointError."""
        return VideoSegmenter.from_pretrained(self.model, self.device)

    @cached_property
    def weights(self) -> str:
        """The checkpoint's fingerprint."""
        return fingerprint(self.folder)

    def settings(self, **more: Any) -> dict[str, Any]:
        """What every cell depends on, and more."""
        return {"weights": self.weights, "height": self.height, **more}
