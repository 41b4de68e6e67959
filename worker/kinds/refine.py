"""Refine: propagates what a person painted or marked on an earlier job's tracks to all frames."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from backend.store import JobRequest, UnknownJobError
from backend.store.params import CaptionParams, RefineParams
from trajseg.correction.mobile_sam import load_marks_model
from trajseg.errors import InputError
from trajseg.tracks import MaskTrack, Result
from worker.kinds.base import JobContext, JobOutcome
from worker.kinds.outcome import TracksOutcome
from worker.kinds.refining import Refiner, source_tracks


def do(context: JobContext[RefineParams]) -> JobOutcome:
    """Refines the touched tracks; a separate job captions those without a caption."""
    job, params = context.job, context.params
    base = context.result_of(params.base_job_id)
    annotation_id = _annotation_id(context)
    painted = context.store.corrections.painted(job.project_id or 0, annotation_id) if annotation_id is not None else []
    if not painted and not params.marks:
        raise InputError(
            "The annotation this job refines has been deleted.", "Correct the task's newest prediction instead."
        )
    written = context.store.corrections.captions(job.project_id or 0, annotation_id) if annotation_id else {}
    started = time.perf_counter()
    sources = source_tracks(base, painted, context.result_of, params.base_job_id, _earlier(context))
    model = context.settings.marks_model
    refiner = Refiner(
        context.engine, context.clip, job.instruction, marks_model=load_marks_model(model) if model else None
    )
    refined = refiner.run(sources, painted, params.marks, context.progress)
    result = Result(
        video=job.video,
        fps=context.clip.fps,
        width=context.clip.width,
        height=context.clip.height,
        frame_count=len(context.clip),
        instruction=job.instruction,
        answer=base.answer if base else "",
        model_version=context.engine.spec.model_version,
        tracks=[_captioned(track, written) for track in refined.tracks],
        timings={"refine": time.perf_counter() - started},
    )
    tracks = TracksOutcome(result, refined.notes, refined.evidence)
    if params.base_job_id and base:
        tracks.keep_warnings(context.store.jobs.get(params.base_job_id).notes, base)
    # The refined masks should not wait for the captions.
    if any(not track.caption for track in result.tracks) and context.engine.spec.captions:
        return tracks.outcome(context.settings.review_strategy, (_caption_request(context),))
    return tracks.outcome(context.settings.review_strategy)


def _captioned(track: MaskTrack, written: Mapping[str, str]) -> MaskTrack:
    """The same track with the caption that a person wrote, if any."""
    return replace(track, caption=written.get(track.label, track.caption))


def _annotation_id(context: JobContext[RefineParams]) -> int | None:
    """The annotation whose corrections count; for marks on refined tracks, the one they were refined for."""
    params = context.params
    if params.annotation_id is None and params.base_job_id:
        return context.store.corrections.annotation_behind(params.base_job_id)
    return params.annotation_id


def _earlier(context: JobContext[RefineParams]) -> set[str]:
    """The jobs whose tracks the base job refined, directly or through others."""
    earlier: set[str] = set()
    job_id = context.params.base_job_id
    while job_id is not None and job_id not in earlier:
        earlier.add(job_id)
        try:
            job_id = context.store.jobs.get(job_id).asked.earlier_job_id
        except UnknownJobError:
            break
    return earlier


def _caption_request(context: JobContext[RefineParams]) -> JobRequest:
    job = context.job
    return JobRequest(
        "caption",
        job.project_id,
        job.task_id,
        job.video,
        job.instruction,
        "interactive",
        CaptionParams(job_id=job.id, engine=context.params.engine),
        model_version=job.model_version,
        subject=f"captions of {job.id}",
    )
