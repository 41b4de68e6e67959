"""Prelabel: the tracks of the objects that an instruction, or each label's own instruction, refers to."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace

from rq.timeouts import JobTimeoutException

from backend.store import StaleRunError
from backend.store.notes import TrackWarning
from backend.store.params import PrelabelParams
from trajseg.engines.base import check_instruction
from trajseg.errors import CancelledError, ServiceError, TrajSegError
from trajseg.tracks import Result
from worker.kinds.base import JobContext, JobOutcome, PreemptedError
from worker.kinds.outcome import TracksOutcome
from worker.kinds.resuming import Part, segmented
from worker.kinds.side_by_side import compared

log = logging.getLogger("trajseg.worker")


def do(context: JobContext[PrelabelParams]) -> JobOutcome:
    """Segments, captions each track if the engine can, and compares with a second engine if one is named."""
    if context.params.instructions:
        tracks = TracksOutcome(_labelled(context))
    else:
        tracks = TracksOutcome(segmented(context, check_instruction(context.job.instruction)))
    # The grounding answer already contains captions; those made from the trajectories say more.
    tracks.caption(context.engine, context.clip, tracks.result.tracks, lambda done, total: context.alive())
    if context.params.second and not context.params.instructions:
        _compare(context, tracks, context.params.second)
    return tracks.outcome(context.settings.review_strategy)


def _compare(context: JobContext[PrelabelParams], tracks: TracksOutcome, second: str) -> None:
    """Compares with a second engine; if that fails, a warning says so: the first engine's tracks are worth having."""
    try:
        tracks.comparison = compared(context, tracks.result, second)
    except (CancelledError, PreemptedError, ServiceError, StaleRunError, JobTimeoutException):
        raise
    except Exception as error:
        log.exception("%s did not answer: its tracks are not compared", second)
        reason = str(error) if isinstance(error, TrajSegError) else type(error).__name__
        tracks.warnings.append(TrackWarning(text=f"not compared with {second}, which failed: {reason}"))


def _labelled(context: JobContext[PrelabelParams]) -> Result:
    """The tracks of all labels in one result; a label's second object is called "car-2", and so on."""
    asked = context.params.instructions
    results = [
        segmented(context, check_instruction(instruction), Part(number, len(asked)))
        for number, (_, instruction) in enumerate(asked)
    ]
    tracks, timings = [], Counter[str]()
    for (label, _), result in zip(asked, results, strict=True):
        timings.update(result.timings)
        for number, track in enumerate(result.tracks, 1):
            named = label if number == 1 else f"{label}-{number}"
            tracks.append(replace(track, uid=f"{named}:{track.uid}"[:100], label=named))
    answers = [f"{label}: {result.answer}" for (label, _), result in zip(asked, results, strict=True)]
    return replace(
        results[0],
        instruction=context.job.instruction,
        answer="\n".join(answers),
        tracks=tracks,
        timings=dict(timings),
    )
