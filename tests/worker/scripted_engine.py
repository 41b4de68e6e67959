"""The scripted engine as a plug-in for workers in other processes: `TRAJSEG_MODEL=scripted_engine:build`.

A test steers it from outside: SCRIPTED_PACE names a file with the seconds that a frame takes.
"""

from __future__ import annotations

import os
import runpy
import time
from pathlib import Path
from typing import Any

from trajseg.engines.base import Progress
from trajseg.tracks import Result
from trajseg.video import Clip

# By its path: tests/ on the import path would hide the packages that its folders are named after.
ScriptedEngine: Any = runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))["ScriptedEngine"]


class PacedEngine(ScriptedEngine):
    """Finds colours that the instruction names, as fast as the test wants it."""

    model_version = "scripted_engine:build"

    def segment(self, clip: Clip | str | Path, instruction: str, progress: Progress | None = None) -> Result:
        if "divide by zero" in instruction:
            _ = 1 / 0

        def paced(done: int, total: int) -> None:
            if file := os.environ.get("SCRIPTED_PACE"):
                time.sleep(float(Path(file).read_text()))
            if progress:
                progress(done, total)

        result: Result = super().segment(clip, instruction, paced)
        return result


def build(device: str) -> PacedEngine:
    return PacedEngine()


def misnamed(device: str) -> Any:
    return ScriptedEngine()
