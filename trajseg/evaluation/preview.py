"""A preview: an engine on a few frames of a clip, what it considered, and how long the lot will take."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from trajseg.engines.base import Engine, RunContext, check_instruction
from trajseg.pictures import contact_sheet
from trajseg.progress import Progress
from trajseg.tracks import MaskTrack, Result
from trajseg.video import Clip
from trajseg.video.sampled_clip import SampledClip, sampled_clip
from trajseg.video.spacing import end_to_end


@dataclass(frozen=True)
class Preview:
    """What came out.

    Args:
        clip: the few frames.
        result: of these frames.
        considered: tracks of what the engine looked at and does not mean.
        seconds: that the engine took for them.
        clip_frames: frames of the whole clip.
    """

    clip: SampledClip
    result: Result
    considered: tuple[MaskTrack, ...]
    seconds: float
    clip_frames: int

    @property
    def seconds_a_frame(self) -> float:
        """What is done once a clip, such as asking a language model, counts in full: high for long clips."""
        return self.seconds / len(self.clip)

    def estimate(self, videos: int = 1) -> float:
        """Seconds for so many clips like this one, by one worker at this speed."""
        return self.seconds_a_frame * self.clip_frames * videos

    def sentences(self) -> list[str]:
        """One on each track, with the 1-based frames of the whole clip that show it; those considered come last."""
        said = []
        for track in (*self.result.tracks, *self.considered):
            shown = ", ".join(str(self.clip.indices[index] + 1) for index in track.present)
            said.append(f"{track.label}: {track.caption or 'no caption'} (score {track.score:.2f}), in frames {shown}")
        return said or ["No object is meant: no tracks."]

    def draw(self, path: Path) -> Path:
        """Write the frames with all tracks, those considered among them, as one PNG."""
        tracks = [*self.result.tracks, *self.considered]
        title, few = self.result.instruction, self.clip
        return contact_sheet(few, tracks, path, columns=5, count=len(few), title=title, frames=few.indices)


def preview(engine: Engine, clip: Clip, instruction: str, frames: int, progress: Progress | None = None) -> Preview:
    """Segment what an instruction means in `frames` frames of a clip, evenly spread from its first to its last.

    Raises:
        InstructionError: the instruction cannot be used.
        VideoError: the video can no longer be read; or whatever `progress` raises.
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
