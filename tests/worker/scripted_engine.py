"""The scripted engine as a plug-in for workers in other processes: `TRAJSEG_MODEL=scripted_engine:build`.

A test steers it from outside: SCRIPTED_PACE names a file with the seconds that a frame takes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.scripted import ScriptedEngine
from trajseg.engines.base import PLAIN, EngineSpec, FrameMasks, RunContext
from trajseg.engines.segmentation import Segmentation
from trajseg.video import Clip


class PacedEngine(ScriptedEngine):
    """Finds colours that the instruction names, as fast as the test wants it."""

    spec = EngineSpec(name="scripted", model_version="scripted-paced", several=True, none=True)

    def __init__(self, device: str = "") -> None:
        self.device = device

    def segment(self, clip: Clip | str | Path, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        if "divide by zero" in instruction:
            _ = 1 / 0
        segmentation: Segmentation = super().segment(clip, instruction, context)
        return segmentation

    def frames(self, *arguments: Any) -> Iterator[FrameMasks]:
        for frame in super().frames(*arguments):
            if file := os.environ.get("SCRIPTED_PACE"):
                time.sleep(float(Path(file).read_text()))
            yield frame


build = PacedEngine


def without_spec(device: str) -> PacedEngine:
    return PacedEngine(device)


def misnamed(device: str) -> Any:
    return ScriptedEngine()


misnamed.spec = PacedEngine.spec  # type: ignore[attr-defined]


def no_engine(device: str) -> object:
    return object()
