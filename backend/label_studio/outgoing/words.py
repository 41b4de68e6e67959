"""Texts for the answer area of the annotator's page: about predictions, typed instructions and marks."""

from __future__ import annotations

from backend.store import Job
from trajseg.tracks import Result
from trajseg.words import counted

LONGEST_QUOTE = 80
"""Longest quoted sentence, characters."""
NEXT = "You can leave this page: the result becomes a prediction of this task. Open the task again to see it."


def about(kind: str, result: Result) -> str:
    """Describes a prediction.

    Args:
        kind: "prelabel", "refined" or "typed"; see `superseding.kind_of`.
    """
    what = {"prelabel": "Prelabel", "refined": "Refined from corrections"}.get(kind, "Answer")
    seen = [track for track in result.tracks if track.present]
    words = f'{what} for "{quoted(result.instruction)}" by {result.model_version or "trajseg"}'
    if not seen:
        return f"{words}. {nothing(result)}"
    return f"{words}: {counted(len(seen), 'track')} in {result.frame_count} frames."


def nothing(result: Result) -> str:
    """The answer to an instruction that no object in the clip matches."""
    said = result.plain_answer
    return f'Nothing found. The model says: "{quoted(said)}"' if said else "Nothing found: no such object in the video."


def nothing_there(instruction: str, result: Result) -> str:
    """The answer to a typed instruction that matches nothing in the video."""
    said = f' The model says: "{quoted(result.plain_answer)}"' if result.plain_answer else ""
    return f'Nothing there for "{quoted(instruction)}".{said}'


def found(instruction: str, result: Result, labels: list[str]) -> str:
    """The answer to a typed instruction whose tracks are suggested on the page."""
    tracks = "; ".join(
        f"{label}: {track.caption or 'no caption'}" for label, track in zip(labels, result.tracks, strict=True)
    )
    return f'Found for "{quoted(instruction)}": {tracks}. Accept or reject the suggestions on the pictures.'


def elsewhere(instruction: str, labels: list[str]) -> str:
    """The answer if tracks were found, but none is visible on the page's pictures."""
    return f'Found "{quoted(instruction)}" ({", ".join(labels)}), but on none of these pictures. {NEXT}'


def not_done(instruction: str, error: str, remedy: str, rejection: str = "") -> str:
    """The answer to a request that was rejected or failed, with the reason.

    Args:
        rejection: of the job; empty if it was not rejected.
    """
    reason = " ".join(f"{error} {remedy}".split())
    return f'{ended_badly(rejection).capitalize()}: "{quoted(instruction)}". {reason}'


def ended_badly(rejection: str) -> str:
    """How a job without a result ended, in words for an annotator.

    Args:
        rejection: of the job; empty if it was not rejected.
    """
    return {"": "failed", "instruction": "not understood"}.get(rejection, "rejected")


def refined_elsewhere(labels: list[str]) -> str:
    """The answer to a mark whose track is already on all these pictures."""
    return f"Refined from your mark: {', '.join(labels)}. It becomes a prediction of this task: open the task again."


def running(instruction: str, job: Job, ahead: int, seconds: float | None) -> str:
    """The answer while the job is waiting or running.

    Args:
        ahead: jobs that workers will take before it.
        seconds: how long such jobs have taken so far; None if unknown.
    """
    if job.state == "queued":
        state = f"waiting, {counted(ahead, 'job')} before it" if ahead else "waiting for a worker"
    else:
        state = f"{100 * job.frames_done // job.frames_total} % done" if job.frames_total else "started"
    left = job.eta_seconds if job.state == "running" and job.frames_done else seconds
    about_seconds = f", about {_rough(left)}" if left else ""
    return f'Still running: "{quoted(instruction)}" ({state}{about_seconds}). {NEXT}'


def quoted(text: str) -> str:
    """A sentence shortened for quoting."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_QUOTE else f"{text[: LONGEST_QUOTE - 1]}…"


def _rough(seconds: float) -> str:
    if seconds < 90:
        return f"{max(round(seconds / 5) * 5, 5)} s"
    return f"{round(seconds / 60)} min"
