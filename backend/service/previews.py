"""Requests for previews: an engine on a few frames of a video, before whole videos are queued."""

from __future__ import annotations

from backend.service.service import Service
from backend.store import Job, JobRequest, Project
from backend.store.params import PreviewParams
from trajseg.engines.base import check_instruction
from trajseg.errors import InputError


def request_preview(
    service: Service, project: Project | None, video: str, instruction: str, engine: str = "", videos: int = 1
) -> Job:
    """The job that previews an instruction; an equal request is answered with its result, and retried if it failed.

    Args:
        video: as a task has it; workers fetch it under the same rules.
        engine: one of those on offer; empty: the project's.
        videos: like this one, for the estimate.

    Raises:
        InputError: no video, or an engine that is not on offer, or a number that cannot be.
        InstructionError: the instruction cannot be used.
    """
    video, instruction = video.strip(), check_instruction(instruction)
    if not video:
        raise InputError("There is no video to preview.", "Give its address as a task has it.")
    chosen = service.engines.chosen(service.store, project, engine)
    params = PreviewParams.read({"videos": videos, **chosen.params})
    request = JobRequest(
        "preview",
        project.id if project else None,
        None,
        video,
        instruction,
        "interactive",
        params,
        chosen.model_version,
        subject=f"preview for {videos} videos",
    )
    [(job, _)] = service.jobs.add([request])
    if job.state in ("failed", "cancelled"):
        job = service.jobs.retry(job.id)
    return job
