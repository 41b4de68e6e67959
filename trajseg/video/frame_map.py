"""The frame map: frame index, presentation time, and the frame number in Label Studio's editor.

Indices are 0-based. Times are seconds on the clock that a browser shows for the file: 0 is the start of the file, its
first sound or picture. Editor frame numbers are 1-based: for frame number f, Label Studio
seeks to (f - 1) / fps + 0.002 s, where fps is the frame rate in the labelling configuration or the task's data
(`frameRate` of the <Video>, 24 by default), and shows the browser's frame at that time.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import pairwise

from trajseg.errors import VideoError
from trajseg.video.frame_times import CLOCK_TICK, is_jump, usual_gap

SEEK_OFFSET = 0.002
"""Seconds that Label Studio adds when seeking, so that rounding does not show the previous frame."""

MICROSECONDS = 1_000_000
"""Browsers use whole microseconds: frame times are rounded, and seek times truncated."""

FALLBACK_FPS = 25.0
"""Frames per second of a clip too short to have a rate."""


@dataclass(frozen=True)
class FrameMap:
    """Presentation times of the frames that can be decoded.

    Args:
        times: presentation time of each frame in seconds, strictly increasing, never negative.
        fps: the editor's frames per second. For an opened clip this is its average rate, not the header's; `at_rate`
            returns the map for an editor with another rate.

    Raises:
        VideoError: there are no frames, times do not increase, or the rate is not positive.
    """

    times: tuple[float, ...]
    fps: float

    def __post_init__(self) -> None:
        if not self.times:
            raise VideoError("The video has no frames.", "Check that the file is complete.")
        if any(after <= before for before, after in pairwise(self.times)):
            raise VideoError("The frame times do not increase.", "Give each frame a later time than the one before.")
        if not self.fps > 0:
            raise VideoError(f"The frame rate is {self.fps}, which is not above 0.", "Give a rate above 0.")

    @classmethod
    def from_times(cls, times: tuple[float, ...], nominal_fps: float | None = None) -> FrameMap:
        """The map of frames at `times` (seconds).

        `nominal_fps`, the header's rate, is used if every time matches it within the container's rounding. Jumps of the
        clock are excluded from the average.
        """
        if nominal_fps and all(
            abs(time - times[0] - index / nominal_fps) <= CLOCK_TICK for index, time in enumerate(times)
        ):
            return cls(times, nominal_fps)
        if len(times) > 1 and times[-1] > times[0]:
            usual = usual_gap(times)
            gaps = [after - before for before, after in pairwise(times)]
            gaps = [gap for gap in gaps if not is_jump(gap, usual)]
            average = (
                (len(times) - 1) / (times[-1] - times[0]) if len(gaps) == len(times) - 1 else len(gaps) / sum(gaps)
            )
            # 25 and 30000/1001, without the rounding error of the sum.
            exact = float(Fraction(average).limit_denominator(1001))
            return cls(times, exact if math.isclose(exact, average, rel_tol=1e-9) else average)
        return cls(times, nominal_fps or FALLBACK_FPS)

    def __len__(self) -> int:
        return len(self.times)

    @cached_property
    def constant_rate(self) -> bool:
        """Whether editor frame i + 1 always shows frame i when counting at `fps`."""
        return all(
            time <= self._seek_time(index + 1) < following
            for index, (time, following) in enumerate(zip(self.times, (*self.times[1:], float("inf")), strict=True))
        )

    def index_at(self, time: float) -> int:
        """Index of the frame shown at `time` seconds; outside of the clip the first or last frame."""
        return max(0, bisect_right(self.times, time) - 1)

    def at_rate(self, fps: float) -> FrameMap:
        """The same frames for an editor with `fps` frames per second.

        Raises:
            VideoError: the rate is not positive.
        """
        return replace(self, fps=fps)

    @cached_property
    def editor_frames(self) -> int:
        """The editor's number of frames, if the last one is shown for the average duration."""
        last = len(self.times) - 1
        length = (self.times[-1] - self.times[0]) / last if last else 0.0
        return max(1, math.floor((self.times[-1] + length) * self.fps + 0.5))

    def editor_frame(self, index: int) -> int:
        """Label Studio's 1-based number for frame `index` (0-based, not negative).

        If several numbers show the frame, the one with the nearest seek time. A frame can be too short to have a
        number; then the nearest number, which shows a neighbouring frame.

        Raises:
            IndexError: the clip has no such frame.
        """
        if not 0 <= index < len(self.times):
            raise IndexError(f"frame {index} of a clip of {len(self.times)} frames")
        first = self._first_number(self.times[index])
        last = index + 1 == len(self.times)
        end = max(first, self.editor_frames + 1) if last else self._first_number(self.times[index + 1])
        if first == end:
            # No number shows it: choose the last one before it or the first one after it.
            nearest = math.floor(self.times[index] * self.fps + 0.5) + 1
            return min(max(nearest, first - 1, 1), first, self.editor_frames)
        nearest = math.floor((self.times[index] - SEEK_OFFSET) * self.fps + 0.5) + 1
        return min(max(nearest, first), end - 1)

    def index_of_editor_frame(self, frame: int) -> int:
        """Index of the frame that the editor shows for its 1-based number `frame`.

        Raises:
            IndexError: `frame` is below 1.
        """
        if frame < 1:
            raise IndexError(f"editor frames count from 1, got {frame}")
        return self.index_at(self._seek_time(frame))

    def _first_number(self, time: float) -> int:
        """The first editor frame with a seek time at or after `time`."""
        frame = max(1, math.ceil((time - SEEK_OFFSET) * self.fps))
        while self._seek_time(frame) < time:
            frame += 1
        return frame

    def _seek_time(self, frame: int) -> float:
        """The latest start time, in seconds, of the frame shown for the number `frame`."""
        return (math.floor(((frame - 1) / self.fps + SEEK_OFFSET) * MICROSECONDS) + 0.5) / MICROSECONDS
