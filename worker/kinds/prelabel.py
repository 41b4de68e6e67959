"""Prelabel: the tracks of what an instruction means."""

from __future__ import annotations

from backend.store.params import PrelabelParams
from trajseg.engines.base import check_instruction
from worker.kinds.base import JobContext, JobOutcome
from worker.kinds.outcome import TracksOutcome
from worker.kinds.resuming import segmented
from worker.kinds.side_by_side import compared


def do(context: JobContext[PrelabelParams]) -> JobOutcome:
    """Segment, then describe each track where the engine can; compare with a second engine where one is named."""
    tracks = TracksOutcome(segmented(context, check_instruction(context.job.instruction)))
    # The grounding answer has put them into words already; the trajectories themselves tell more.
    tracks.caption(context.engine, context.clip, tracks.result.tracks, lambda done, total: context.alive())
    if context.params.second:
        tracks.comparison = compared(context, tracks.result, context.params.second)
    return tracks.outcome(context.settings.review_strategy)
