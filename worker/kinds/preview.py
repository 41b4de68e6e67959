"""Preview: an engine's result on a few frames of a video, before whole videos are queued."""

from __future__ import annotations

from backend.label_studio.outgoing.pictures import preview_path
from backend.store.params import PreviewParams
from trajseg.evaluation.preview import duration, preview
from worker.kinds.base import JobContext, JobOutcome


def do(context: JobContext[PreviewParams]) -> JobOutcome:
    """A picture of the frames with every candidate, the engine's answer, and an estimate for all videos."""
    params = context.params
    seen = preview(context.engine, context.clip, context.job.instruction, params.frames, context.progress)
    seen.draw(context.settings.media_dir / preview_path(context.job.id))
    whole = f"{params.videos} videos like this" if params.videos > 1 else "this video"
    frames = seen.clip_frames * params.videos
    return JobOutcome(
        report={
            "engine": seen.result.model_version,
            "frames": len(seen.clip),
            "speed": f"{seen.seconds_a_frame:.2f} s per frame on this worker",
            "estimate": f"about {duration(seen.estimate(params.videos))} for {whole} ({frames} frames) with one worker",
            "tracks": seen.sentences(),
            "answer": seen.result.plain_answer,
        }
    )
