"""Which frames of a clip the model looks at: those that the language model sees, and those that get a prompt."""

from __future__ import annotations

from dataclasses import dataclass

from trajseg.errors import InputError
from trajseg.video.spacing import sampled_frames


@dataclass(frozen=True)
class Sampling:
    """How many frames are looked at; None is the checkpoint's own way.

    Args:
        llm_frames: N, the frames that the language model sees, at the centres of equal bins.
        key_frames: the frames on which a trajectory token becomes a prompt: frame 0, where memory starts, and others
            spread evenly over those that the language model sees; no other frame gets one. None: frame 0 and all that
            it sees, and every frame where the checkpoint has `prompt_every_frame`.

    Raises:
        InputError: a number is less than 1.
    """

    llm_frames: int | None = None
    key_frames: int | None = None

    def __post_init__(self) -> None:
        for name, count in (("llm_frames", self.llm_frames), ("key_frames", self.key_frames)):
            if count is not None and count < 1:
                raise InputError(f"{name} is {count}.", "Take at least one frame.")

    def seen(self, frame_count: int, own: int) -> list[int]:
        """Frames that the language model sees of a clip of `frame_count`, 0-based; `own` is the checkpoint's N."""
        return sampled_frames(frame_count, self.llm_frames or own)

    def numbers(self, seen: int, own: int) -> list[int]:
        """Which of `own` learned embeddings of a frame's number each of the `seen` frames gets.

        Where fewer frames than the checkpoint's own are requested, these are the numbers of the same moments of a clip.
        """
        return list(range(seen)) if self.llm_frames is None or seen > own else sampled_frames(own, seen)

    def keys(self, seen: list[int]) -> list[int]:
        """Indices of the key frames, in time order, when the language model sees the frames `seen`."""
        able = sorted({0, *seen})
        count = min(self.key_frames or len(able), len(able))
        return [able[place * len(able) // count] for place in range(count)]
