"""Prelabel: the tracks of what an instruction means."""

from __future__ import annotations

from backend.store.params import PrelabelParams
from trajseg.engines.base import check_instruction
from worker.kinds.base import JobContext, JobOutcome
from worker.kinds.outcome import TracksOutcome
from worker.kinds.resuming import segmented


def do(context: JobContext[PrelabelParams]) -> JobOutcome:
    """Segment, then describe each track where the engine can."""
    tracks = TracksOutcome(segmented(context, check_instruction(context.job.instruction)))
    # The grounding answer has put them into words already; the trajectories themselves tell more.
    tracks.caption(context.engine, context.clip, tracks.result.tracks, lambda done, total: context.alive())
    return tracks.outcome(context.settings.review_strategy)
