"""Which frames of a clip a task shows as pictures, and where their files are stored."""

from __future__ import annotations

from pathlib import PurePosixPath

from backend.store.notes import JobNotes
from trajseg.tracks import Result, key_frames


def key_frame_path(job_id: str, index: int) -> str:
    """Path of a job's shown frame `index` (0-based), below the media folder."""
    return str(PurePosixPath(job_id) / f"{index:06d}.jpg")


def preview_path(job_id: str) -> str:
    """Path of a preview's picture, below the media folder."""
    return str(PurePosixPath(job_id) / "preview.png")


def shown_frames(result: Result, notes: JobNotes, limit: int) -> list[int]:
    """0-based indices of the frames to show, sorted: both ends, frames to review next, and as many others as fit.

    limit: most frames, at least 2.
    """
    chosen = {0, result.frame_count - 1}
    for index in notes.first_frames():
        if index < result.frame_count and len(chosen) < limit:
            chosen.add(index)
    others = [index for index in key_frames(result, limit) if index not in chosen]
    room = limit - len(chosen)
    if len(others) > room:
        others = [others[place * len(others) // room] for place in range(room)]
    return sorted([*chosen, *others])
