"""Side by side: a second engine runs the same task, and people review the frames on which the two disagree first."""

from __future__ import annotations

from backend.store.notes import DoubtfulFrame, TrackReview
from backend.store.params import PrelabelParams
from trajseg.engines.base import RunContext
from trajseg.evaluation.comparison import Comparison, compare
from trajseg.tracks import Result
from worker.kinds.base import JobContext

SHOWN = 3
"""Most frames of disagreement listed for review."""
LABEL = "both engines"


def compared(context: JobContext[PrelabelParams], result: Result, second: str) -> Comparison:
    """The comparison of `result` with the second engine's result for the job's clip and instruction.

    Raises:
        InputError: this worker does not offer the engine.
        CheckpointError: it cannot be loaded; or whatever the engine raises.
    """

    def progress(done: int, total: int) -> None:
        # The first engine's frames are already counted; this run ends here if it is cancelled.
        context.alive()

    engine = context.use(second)
    other = engine.segment(context.clip, result.instruction, RunContext(progress=progress)).result(progress)
    return compare(result, other)


def disagreement(comparison: Comparison) -> TrackReview | None:
    """The frames with the lowest agreement, for the whole result; None if the engines agree everywhere."""
    frames = tuple(
        DoubtfulFrame(
            index=index,
            reason=f"the engines disagree (IoU {comparison.agreement[index]:.2f})",
            doubt=round(1 - comparison.agreement[index], 4),
        )
        for index in comparison.frames_to_look_at(SHOWN)
    )
    return TrackReview(track="", label=LABEL, frames=frames) if frames else None
