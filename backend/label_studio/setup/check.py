"""One line of `trajseg doctor`: what was checked, the finding and the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        state: "ok", "warn" (works, but with a limitation) or "fail".
        words: the finding.
        remedy: what to do about it; empty if there is nothing to do.
    """

    name: str
    state: State
    words: str
    remedy: str = ""


def video_checks(
    name: str, path: Path, editor_fps: float | None = None, fixed: bool = False, video_line: str = ""
) -> Iterator[Check]:
    """Checks one video: codec, frame rate, and whether its header is right.

    Args:
        told_fps: the frame rate that the editor uses, if known.
        fixed: whether the labelling configuration fixes that rate; otherwise it comes from the task's data.
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
        notes = [*clip.notes, *([] if clip.constant_rate else ["variable frame rate"])]
        yield Check("Video", "warn", f"{words}; {'; '.join(notes)}", "Frames are matched by their times.")
    else:
        yield Check("Video", "ok", words)
    if editor_fps is None or abs(editor_fps - fps) * clip.duration <= 0.5:
        return
    if fixed:
        yield Check(
            "Frame rate",
            "warn",
            f"{name}: the labelling configuration makes the editor count {editor_fps:g} frames a second, but the video "
            f"has {fps:.6g}: the editor's frame numbers are not the video's",
            f"Write {video_line} in the labelling configuration, and fps={fps:.6g} in the task's data "
            "(the next prediction sets it).",
        )
    else:
        yield Check(
            "Frame rate",
            "fail",
            f"{name}: the task says {editor_fps:g} frames a second, but the video has {fps:.6g}: frames are shifted",
            f"Set fps in the task's data to {fps:.6g}; the next prediction does it too.",
        )
