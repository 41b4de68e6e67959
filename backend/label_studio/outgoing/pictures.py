"""Which frames of a clip a task shows as pictures, and where these lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from trajseg.tracks import Result, key_frames


def key_frame_path(job_id: str, index: int) -> str:
    """Where a job's key frame `index` (0-based) lies below the media folder."""
    return str(PurePosixPath(job_id) / f"{index:06d}.jpg")


def first_frames(notes: Mapping[str, Any]) -> list[int]:
    """0-based frames that a person should look at next, the most doubtful first; see docs/backend.md."""
    suggested = [frame for track in notes.get("review") or [] for frame in track["frames"]]
    suggested.sort(key=lambda frame: -frame["doubt"])
    return list(dict.fromkeys(int(frame["index"]) for frame in suggested))


def shown_frames(result: Result, notes: Mapping[str, Any], limit: int) -> list[int]:
    """0-based indices of the frames to show, sorted: both ends, what to look at next, and as many key frames as fit.

    limit: frames at most, at least 2.
    """
    chosen = {0, result.frame_count - 1}
    for index in first_frames(notes):
        if index < result.frame_count and len(chosen) < limit:
            chosen.add(index)
    others = [index for index in key_frames(result, limit) if index not in chosen]
    room = limit - len(chosen)
    if len(others) > room:
        others = [others[place * len(others) // room] for place in range(room)]
    return sorted([*chosen, *others])
