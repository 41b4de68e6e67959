"""Preview requests: run an engine on a few frames of a video before queueing whole videos."""

from __future__ import annotations

from backend.label_studio.incoming.payloads import MAX_ADDRESS_LENGTH
from backend.service.service import Service
from backend.store import Job, JobRequest, Project
from backend.store.params import PreviewParams
from trajseg.engines.base import check_instruction
from trajseg.errors import InputError


def request_preview(
    service: Service, project: Project | None, video: str, instruction: str, engine: str = "", videos: int = 1
) -> Job:
    """The job that previews an instruction; an equal request returns the existing job, retried if it failed.

    Args:
        video: as in a task; workers fetch it under the same rules.
        engine: one of the offered engines; empty: the project's.
        videos: number of similar videos, for the estimate.

    Raises:
        InputError: there is no video, the engine is not offered, or a number is out of range.
        InstructionError: the instruction cannot be used.
    """
    video, instruction = video.strip(), check_instruction(instruction)
    if not video:
        raise InputError("There is no video to preview.", "Give its address, as in a task.")
    if len(video) > MAX_ADDRESS_LENGTH:
        raise InputError(f"The video's address has {len(video)} characters.", f"{MAX_ADDRESS_LENGTH} are allowed.")
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
