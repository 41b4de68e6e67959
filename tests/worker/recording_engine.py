"""trajseg-tiny as a plug-in for workers in other processes that records the frames it draws.

RECORDING names the file; SCRIPTED_PACE names a file with the seconds that a frame takes at least.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from trajseg.engines.base import PLAIN, EngineSpec, FrameMasks, RunContext
from trajseg.engines.registry import engine_spec, load_engine
from trajseg.engines.segmentation import Segmentation
from trajseg.video import Clip


class RecordingEngine:
    """The shipped model, slowed down and recorded."""

    # A version of a project would be the engine inside, unwatched.
    spec: EngineSpec = replace(engine_spec("trajseg-tiny"), adapts=False)

    def __init__(self, device: str = "") -> None:
        self.engine = load_engine("trajseg-tiny", device)

    def segment(self, clip: Clip, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        segmentation = self.engine.segment(clip, instruction, context)
        segmentation._frames = self._recorded(segmentation._frames)
        return segmentation

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def _recorded(self, frames: Iterator[FrameMasks]) -> Iterator[FrameMasks]:
        for frame in frames:
            with Path(os.environ["RECORDING"]).open("a") as file:
                file.write(f"{os.getpid()} {frame.index}\n")
            time.sleep(float(Path(os.environ["SCRIPTED_PACE"]).read_text()))
            yield frame


build = RecordingEngine
