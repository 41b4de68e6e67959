"""Side by side: a second engine does the same task, and where the two disagree a person looks first."""

from __future__ import annotations

from backend.store.notes import DoubtfulFrame, TrackReview
from backend.store.params import PrelabelParams
from trajseg.engines.base import RunContext
from trajseg.evaluation.comparison import Comparison, compare
from trajseg.tracks import Result
from worker.kinds.base import JobContext

SHOWN = 3
"""Frames of disagreement that the review names."""
LABEL = "both engines"


def compared(context: JobContext[PrelabelParams], result: Result, second: str) -> Comparison:
    """What the second engine makes of the job's clip and instruction, compared with `result`.

    Raises:
        InputError: this worker does not offer the engine.
        CheckpointError: it cannot be loaded; or whatever the engine raises.
    """

    def progress(done: int, total: int) -> None:
        # The first engine's frames are counted already; this run ends here where it is cancelled.
        context.alive()

    engine = context.use(second)
    other = engine.segment(context.clip, result.instruction, RunContext(progress=progress)).result(progress)
    return compare(result, other)


def disagreement(comparison: Comparison) -> TrackReview | None:
    """The frames of least agreement, for the whole result; None where the engines agree everywhere."""
    frames = tuple(
        DoubtfulFrame(
            index=index,
            reason=f"the engines disagree (IoU {comparison.agreement[index]:.2f})",
            doubt=round(1 - comparison.agreement[index], 4),
        )
        for index in comparison.frames_to_look_at(SHOWN)
    )
    return TrackReview(track="", label=LABEL, frames=frames) if frames else None
