"""What the track viewer in the browser asks for: scores and doubtful frames at once, masks a stretch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

from backend.store import Job, Track
from trajseg.tracks import palette

DOUBTFUL_SCORE = 0.5
"""A mask of a lower score is as likely wrong as right, in the model's own opinion."""
MASKS_AT_ONCE = 240
"""Frames in one answer: about ten seconds of video, and some hundred kilobytes a track."""

Frames = Sequence[dict[str, Any]]


def outline(job: Job, tracks: Sequence[Track]) -> dict[str, Any]:
    """Everything of a done job's tracks but the masks; frames are 0-based, times are seconds.

    `scores` has null where the object is absent; `doubts` are the frames to look at, in order, with reasons.
    """
    result = job.result or {}
    colours = palette(len(tracks))
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
                "doubts": doubts(track.frames),
            }
            for track, colour in zip(tracks, colours, strict=True)
        ],
    }


def masks(tracks: Sequence[Track], start: int) -> dict[str, Any]:
    """The masks of MASKS_AT_ONCE frames from `start` (0-based): a track's counts, or null, a frame."""
    stretch = slice(start, start + MASKS_AT_ONCE)
    return {
        "start": start,
        "tracks": [
            [frame["rle"]["counts"] if frame["rle"] else None for frame in track.frames[stretch]] for track in tracks
        ],
    }


def doubts(frames: Frames) -> list[dict[str, Any]]:
    """Frames that a person should look at, in order: the worst of each doubtful stretch, and comings and goings.

    Returns:
        {"frame": 0-based index, "reason": a few words} each, at most one a frame.
    """
    found: dict[int, str] = {}
    for before, after in pairwise(frames):
        if (before["rle"] is None) != (after["rle"] is None):
            found[after["index"]] = "the object appears" if after["rle"] else "the object is gone"
    for unsure, stretch in groupby(frames, key=_doubtful):
        if unsure:
            worst = min(stretch, key=lambda frame: frame["score"])
            found[worst["index"]] = f"low score ({worst['score']:.2f})"
    return [{"frame": index, "reason": found[index]} for index in sorted(found)]


def _doubtful(frame: dict[str, Any]) -> bool:
    return frame["rle"] is not None and frame["score"] < DOUBTFUL_SCORE
