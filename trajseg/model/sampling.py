"""Which frames of a clip the language model sees, and which get a prompt."""

from __future__ import annotations

from dataclasses import dataclass

from trajseg.errors import InputError
from trajseg.video.spacing import sampled_frames


@dataclass(frozen=True)
class Sampling:
    """Numbers of frames; None: the checkpoint's own.

    Args:
        llm_frames: N, the frames that the language model sees, at the centres of equal bins.
        key_frames: number of frames with a prompt: frame 0, where memory starts, and others evenly spaced among those
            that the language model sees. None: frame 0 and all that it sees, or every frame if the checkpoint has
            `prompt_every_frame`.

    Raises:
        InputError: a number is less than 1.
    """

    llm_frames: int | None = None
    key_frames: int | None = None

    def __post_init__(self) -> None:
        for name, count in (("llm_frames", self.llm_frames), ("key_frames", self.key_frames)):
            if count is not None and count < 1:
                raise InputError(f"{name} is {count}.", "Use at least one frame.")

    def seen(self, frame_count: int, own: int) -> list[int]:
        """The frames that the language model sees of a clip of `frame_count`, 0-based; `own` is the checkpoint's N."""
        return sampled_frames(frame_count, self.llm_frames or own)

    def numbers(self, seen: int, own: int) -> list[int]:
        """Which of the `own` frame embeddings each of the `seen` frames gets.

        With fewer frames than the checkpoint's own, these are the numbers of the same moments of a clip.
        """
        return list(range(seen)) if self.llm_frames is None or seen > own else sampled_frames(own, seen)

    def keys(self, seen: list[int]) -> list[int]:
        """Indices of the key frames, in time order, if the language model sees the frames `seen`."""
        able = sorted({0, *seen})
        count = min(self.key_frames or len(able), len(able))
        return [able[place * len(able) // count] for place in range(count)]
