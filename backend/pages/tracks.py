"""Data for the track viewer in the browser: scores and frames to review at once, masks in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backend.store import Job, Track
from trajseg.palette import palette

MASKS_AT_ONCE = 240
"""Frames per answer: about ten seconds of video, and a few hundred kilobytes per track."""


def outline(job: Job, tracks: Sequence[Track]) -> dict[str, Any]:
    """Everything about a done job's tracks except the masks; frames are 0-based, times in seconds.

    For each track: `scores` is null where the object is absent, `painted` lists the frames that a person painted, and
    `doubts` those to review next, in order, with the reason (`review` in docs/requests.md).
    """
    result = job.result or {}
    review = {track.track: track.frames for track in job.notes.review}
    # Doubtful frames of the whole result are marked on the first track's line.
    whole = review.get("", ())
    return {
        "width": result.get("width", 0),
        "height": result.get("height", 0),
        "fps": result.get("fps", 0),
        "frame_count": result.get("frame_count", 0),
        "times": [frame["time"] for frame in tracks[0].frames] if tracks else [],
        "masks_at_once": MASKS_AT_ONCE,
        "tracks": [
            {
                "uid": track.uid,
                "label": track.label,
                "colour": colour,
                "scores": [round(frame["score"], 3) if frame["rle"] else None for frame in track.frames],
                "painted": [frame["index"] for frame in track.frames if frame.get("provenance") == "person"],
                "doubts": [
                    {"frame": frame.index, "reason": frame.reason}
                    for frame in sorted(
                        (*review.get(track.uid, ()), *(whole if number == 0 else ())), key=lambda frame: frame.index
                    )
                ],
            }
            for number, (track, colour) in enumerate(zip(tracks, palette(len(tracks)), strict=True))
        ],
    }


def masks(tracks: Sequence[Track], start: int) -> dict[str, Any]:
    """The masks of MASKS_AT_ONCE frames from `start` (0-based): per track and frame the counts, or null."""
    stretch = slice(start, start + MASKS_AT_ONCE)
    return {
        "start": start,
        "tracks": [
            [frame["rle"]["counts"] if frame["rle"] else None for frame in track.frames[stretch]] for track in tracks
        ],
    }
