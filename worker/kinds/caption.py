"""Caption: adds captions to the tracks of an earlier job that have none."""

from __future__ import annotations

from backend.store.params import CaptionParams
from trajseg.correction.strategy import Evidence
from trajseg.errors import InputError
from worker.kinds.base import JobContext, JobOutcome
from worker.kinds.outcome import TracksOutcome


def do(context: JobContext[CaptionParams]) -> JobOutcome:
    """Captions the tracks; everything else in the earlier job's result is unchanged."""
    engine, frames = context.engine, len(context.clip)
    if not engine.spec.captions:
        raise InputError(
            f"{engine.spec.model_version} cannot caption tracks.", "Set TRAJSEG_MODEL to an engine that can."
        )
    result = context.result_of(context.params.job_id)
    if result is None:
        raise InputError(
            f"Job {context.params.job_id}, whose tracks this job captions, has been deleted.", "Run that job again."
        )
    notes = context.store.jobs.get(context.params.job_id).notes
    tracks = TracksOutcome(result, list(notes.refinement))
    tracks.evidence = {one.track: Evidence(one.painted) for one in notes.refinement}
    tracks.keep_warnings(notes, result)
    result.model_version = engine.spec.model_version

    def progress(done: int, total: int) -> None:
        context.progress(round(frames * done / max(total, 1)), frames)

    tracks.caption(engine, context.clip, [track for track in result.tracks if not track.caption], progress)
    return tracks.outcome(context.settings.review_strategy)
