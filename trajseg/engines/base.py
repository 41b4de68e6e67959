"""An engine turns a clip and an instruction into mask tracks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from trajseg.errors import InstructionError
from trajseg.files import printable
from trajseg.tracks import MaskTrack, Result
from trajseg.video import Clip

if TYPE_CHECKING:
    from trajseg.tracks.mark import Mark

MAX_INSTRUCTION_LENGTH = 1000
"""Characters; a longer instruction is refused with InstructionError."""


def check_instruction(instruction: str) -> str:
    """The instruction without outer blanks.

    Raises:
        InstructionError: it is empty, longer than MAX_INSTRUCTION_LENGTH, or has a lone surrogate.
    """
    instruction = instruction.strip()
    if not instruction:
        raise InstructionError("The instruction is empty.", 'Say what to segment, such as "the red circle".')
    if len(instruction) > MAX_INSTRUCTION_LENGTH:
        raise InstructionError(
            f"The instruction has {len(instruction)} characters.",
            f"Say it in at most {MAX_INSTRUCTION_LENGTH}.",
        )
    if printable(instruction) != instruction:
        raise InstructionError(
            "The instruction has half of a character (a lone surrogate).", "Write it again: an emoji was cut in two."
        )
    return instruction


Progress = Callable[[int, int], None]
"""Called once a frame with (frames done, frames in all). What it raises ends the run: see CancelledError."""


class Engine(Protocol):
    """What the worker and the command line ask of a model."""

    @property
    def model_version(self) -> str:
        """Engine, base weights and adapter, as /setup answers and predictions carry it."""

    def segment(self, clip: Clip, instruction: str, progress: Progress | None = None) -> Result:
        """Tracks for every object meant; none when the model says that there is none.

        Raises InstructionError, VideoError, or whatever `progress` raises.
        """


@runtime_checkable
class Captioner(Protocol):
    """An engine that can also put a track into words. Ask with isinstance: not every engine can."""

    def caption(self, clip: Clip, tracks: Sequence[MaskTrack], progress: Progress | None = None) -> list[str]:
        """A sentence on each track, in their order; an empty one where there is nothing to say.

        `progress` is called with (tracks done, tracks in all). Raises CheckpointError when the loaded weights lack
        what captions need, VideoError, InputError when a track does not fit the clip, or whatever `progress` raises.
        """


CONTRADICTION = -4.0
"""A caption whose agreement with an instruction (see trajseg.model.agreement) is below this contradicts it."""


@runtime_checkable
class Comparer(Protocol):
    """An engine that can also tell whether captions contradict an instruction. Ask with isinstance."""

    def contradictions(self, clip: Clip, instruction: str, captions: Sequence[str]) -> list[bool]:
        """For each caption, as the engine wrote it of a track, whether it contradicts the instruction.

        Raises InstructionError or VideoError.
        """


@runtime_checkable
class Prompted(Protocol):
    """An engine that can also segment what a box or a point marks on a frame. Ask with isinstance, then `prompted`."""

    @property
    def prompted(self) -> bool:
        """Whether the loaded weights can."""

    def prompt(
        self, clip: Clip, prompt: Mark, instruction: str, known: Mapping[int, np.ndarray] | None = None
    ) -> np.ndarray:
        """The mask of what is marked, bool [H, W]; all False where nothing is found.

        `known` are masks of the same object on other frames, bool [H, W] by 0-based frame, as far as anybody knows:
        where they contradict the mark, the mark counts. Raises CheckpointError when the loaded weights cannot,
        InputError, or VideoError.
        """
