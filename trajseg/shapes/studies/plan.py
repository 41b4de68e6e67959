"""Settings of a run of the studies: checkpoint, seeds and number of clips."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trajseg.checkpoints.folders import checkpoint_folder, fingerprint
from trajseg.engines.trajseg import VideoSegmenter

SEEDS_APART = 1000
"""Distance between the first seeds of two groups, so that they have no clip in common."""


@dataclass(frozen=True)
class Plan:
    """Settings of a run.

    Args:
        model: a shipped checkpoint's name, or a folder.
        seeds: one per group of clips, or per training.
        clips: per group; None: each study's default.
        height: rows of the clips, in pixels.
        steps: of each training; None: the recipe's.
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
        """The checkpoint's folder."""
        return checkpoint_folder(self.model)

    def segmenter(self) -> VideoSegmenter:
        """The checkpoint, loaded; raises CheckpointError."""
        return VideoSegmenter.from_pretrained(self.model, self.device)

    @cached_property
    def weights(self) -> str:
        """The checkpoint's fingerprint."""
        return fingerprint(self.folder)

    def settings(self, **more: Any) -> dict[str, Any]:
        """The settings that every cell depends on, plus `more`."""
        return {"weights": self.weights, "height": self.height, **more}
