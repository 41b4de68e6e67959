"""The Data Manager's columns: what trajseg writes into a task's data for people; see docs/tasks-and-predictions.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from backend.label_studio.forms import Task
from backend.label_studio.outgoing.states import STATE_KEY, settled_state
from backend.store import Job
from trajseg.tracks import Result

REVIEW_KEY, DOUBT_KEY, WARNINGS_KEY = "trajseg_review", "trajseg_doubt", "trajseg_warnings"
VIDEO_KEY, OPEN_KEY = "trajseg_video", "trajseg_open"
"""Keys of task data."""
LONGEST_COLUMN = 500
"""Longest text in one column, characters."""


def opened_words(prediction_id: int, kind: str) -> str:
    """The column that names the prediction to open; see `superseding.kind_of` for the kinds."""
    return f"#{prediction_id} ({kind})"


def columns_of(
    job: Job, result: Result, task: Task, indices: Sequence[int], numbers: Callable[[int], int]
) -> dict[str, Any]:
    """What the columns say of the task's tracks: state, doubt, where to look, and warnings.

    Args:
        indices: 0-based frames of the pictures; empty in the box view.
        numbers: maps a 0-based frame to its number in Label Studio's video.
    """
    notes = job.notes
    columns: dict[str, Any] = {}
    if state := settled_state(job, result):
        columns[STATE_KEY] = state
    if notes.doubt is not None:
        columns[DOUBT_KEY] = round(notes.doubt, 3)
        columns[REVIEW_KEY] = " | ".join(
            f"{track.label}: "
            + "; ".join(f"{_place(frame.index, indices, numbers)} {frame.reason}" for frame in track.frames)
            for track in notes.review
            if track.frames
        )[:LONGEST_COLUMN]
    # An empty text clears an older warning, but is not written if there was none.
    warnings = " | ".join(notes.sentences(result, numbers))[:LONGEST_COLUMN]
    if warnings or WARNINGS_KEY in task.data:
        columns[WARNINGS_KEY] = warnings
    return columns


def _place(index: int, indices: Sequence[int], numbers: Callable[[int], int]) -> str:
    """How a person finds a frame: "picture 5 (frame 13)", or "frame 13" if no picture shows it."""
    frame = f"frame {numbers(index)}"
    return f"picture {list(indices).index(index) + 1} ({frame})" if index in indices else frame
