"""One line of `trajseg doctor`: what was checked, what was found, and the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        state: "ok", "warn" (works, but somebody should know) or "fail".
        words: what was found.
        remedy: what to do about it; empty when nothing is to be done.
    """

    name: str
    state: State
    words: str
    remedy: str = ""


def video_checks(
    name: str, path: Path, told_fps: float | None = None, fixed: bool = False, video_line: str = ""
) -> Iterator[Check]:
    """What matters about one video: codec, frame rate, and whether its header is right.

    Args:
        told_fps: the frame rate that the editor counts by, if known.
        fixed: whether the labelling configuration fixes it; otherwise it comes from the task's data.
        video_line: the <Video> tag that takes the rate from the task's data.
    """
    from trajseg.video import open_clip

    clip = open_clip(path)
    fps = clip.frame_map.fps
    words = f"{name}: {clip.codec} {clip.width}x{clip.height}, {len(clip)} frames, {fps:.6g} frames a second"
    if not clip.browser_playable:
        yield Check(
            "Video",
            "fail",
            f"{words}; browsers {clip.playback_problem}{''.join(f'; {note}' for note in clip.notes)}",
            "`trajseg project create` uploads an H.264 copy of it.",
        )
    elif clip.notes or not clip.constant_rate:
        notes = [*clip.notes, *([] if clip.constant_rate else ["the frame rate varies"])]
        yield Check("Video", "warn", f"{words}; {'; '.join(notes)}", "Frames are matched by their times.")
    else:
        yield Check("Video", "ok", words)
    if told_fps is None or abs(told_fps - fps) * clip.duration <= 0.5:
        return
    if fixed:
        yield Check(
            "Frame rate",
            "warn",
            f"{name}: the labelling configuration makes the editor count {told_fps:g} frames a second, the video has "
            f"{fps:.6g}: the editor's numbers are not the video's frames",
            f"Write {video_line} in the labelling configuration, and fps={fps:.6g} in the task's data "
            "(the next prediction sets it).",
        )
    else:
        yield Check(
            "Frame rate",
            "fail",
            f"{name}: the task says {told_fps:g} frames a second, but it has {fps:.6g}: they are shifted",
            f"Set fps in the task's data to {fps:.6g}; the next prediction does it too.",
        )
