"""Slow engines, like full-size ones. The worker loads them as `slow_engine:build`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.e2e.colour_engine import ColourEngine
from trajseg.engines.base import PLAIN, EngineSpec, FrameMasks, RunContext
from trajseg.engines.segmentation import Segmentation
from trajseg.errors import InstructionError
from trajseg.video import Clip

SECONDS_A_FRAME = 0.5
NOTHING_SECONDS = 8.0
"""Seconds to find nothing, longer than a page in test_round waits."""


class SlowEngine(ColourEngine):
    """Like ColourEngine, with half a second per frame, and slow to find nothing; rejects questions."""

    spec = EngineSpec(name="slow", model_version="slow", several=True, none=True)

    def segment(self, clip: Clip | str | Path, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        if instruction.endswith("?"):
            raise InstructionError(f"{instruction!r} is a question.", "Name an object, such as 'the red ring'.")
        segmentation = super().segment(clip, instruction, context)
        if not segmentation.objects:
            time.sleep(NOTHING_SECONDS)
        return segmentation

    def frames(self, clip: Clip, names: Sequence[str], done: set[int]) -> Iterator[FrameMasks]:
        for frame in super().frames(clip, names, done):
            time.sleep(SECONDS_A_FRAME)
            yield frame


build = SlowEngine
