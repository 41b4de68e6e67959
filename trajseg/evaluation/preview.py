"""A preview: an engine's result on a few frames of a clip, what it considered, and the estimated total time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from trajseg.engines.base import Engine, RunContext, check_instruction
from trajseg.engines.registry import nothing_found
from trajseg.pictures import contact_sheet
from trajseg.progress import Progress
from trajseg.tracks import MaskTrack, Result
from trajseg.video import Clip
from trajseg.video.sampled_clip import SampledClip, sampled_clip
from trajseg.video.spacing import end_to_end


@dataclass(frozen=True)
class Preview:
    """The result of a preview.

    Args:
        clip: the few frames.
        result: for these frames.
        considered: tracks that the engine considered and rejected.
        seconds: the engine's run time for them.
        clip_frames: frames of the whole clip.
    """

    clip: SampledClip
    result: Result
    considered: tuple[MaskTrack, ...]
    seconds: float
    clip_frames: int

    @property
    def seconds_a_frame(self) -> float:
        """Work done once per clip, such as running a language model, counts in full: too high for long clips."""
        return self.seconds / len(self.clip)

    def estimate(self, videos: int = 1) -> float:
        """Seconds for this many clips like this one, with one worker at this speed."""
        return self.seconds_a_frame * self.clip_frames * videos

    def sentences(self) -> list[str]:
        """One per track, with the 1-based frames of the whole clip that show it; considered ones come last."""
        lines = []
        for track in (*self.result.tracks, *self.considered):
            shown = ", ".join(str(self.clip.indices[index] + 1) for index in track.present)
            lines.append(f"{track.label}: {track.caption or 'no caption'} (score {track.score:.2f}), in frames {shown}")
        return lines or [nothing_found(self.result.model_version)]

    def draw(self, path: Path) -> Path:
        """Writes the frames with all tracks, including considered ones, as one PNG."""
        tracks = [*self.result.tracks, *self.considered]
        title, few = self.result.instruction, self.clip
        return contact_sheet(few, tracks, path, columns=5, count=len(few), title=title, frames=few.indices)


def preview(engine: Engine, clip: Clip, instruction: str, frames: int, progress: Progress | None = None) -> Preview:
    """Segments an instruction on `frames` evenly spaced frames of a clip, including its first and last.

    Raises:
        InstructionError: the instruction cannot be used.
        VideoError: the video can no longer be read; or anything that `progress` raises.
    """
    instruction = check_instruction(instruction)
    few = sampled_clip(clip, end_to_end(len(clip), frames))
    started = time.perf_counter()
    segmentation = engine.segment(few, instruction, RunContext(progress=progress))
    result = segmentation.result(progress)
    return Preview(few, result, segmentation.considered, time.perf_counter() - started, len(clip))


def duration(seconds: float) -> str:
    """In words: seconds below two minutes, minutes below two hours, hours above."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
