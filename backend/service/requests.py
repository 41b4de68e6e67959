"""Job requests from Label Studio's tasks; an invalid one is stored as a rejected job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from backend.engines import ChosenEngine
from backend.label_studio.incoming.payloads import MAX_ADDRESS_LENGTH, Task, storable
from backend.store import JobRequest, Project
from backend.store.models import Rejection
from backend.store.params import PrelabelParams
from label_config import LabelConfig
from trajseg.engines.base import MAX_INSTRUCTION_LENGTH
from trajseg.errors import InstructionError, TaskError, TrajSegError

INSTRUCTION_KEY = "instruction"
"""Key of the instruction in a task's data."""


def prelabel_request(
    project: Project,
    engine: ChosenEngine,
    config: LabelConfig,
    task: Task,
    instruction: object,
    queue: str = "prelabel",
    params: dict[str, Any] | None = None,
) -> JobRequest:
    """The request for one task and instruction; without an instruction, for those of the project's labels.

    Raises TaskError or InstructionError if the task lacks something.
    """
    name = f"Task {task.id}"
    if task.problem:
        raise TaskError(task.problem, "Import the task again.")
    video = config.video_of(task.data)
    _check_text(name, config.video_key, video)
    _check_text(name, INSTRUCTION_KEY, instruction)
    if isinstance(video, str) and not video.strip():
        raise TaskError(f"{name} has no video: its `{config.video_key}` is empty.", "Set it to the video's address.")
    if not isinstance(video, str):
        raise TaskError(
            f"{name} has no video: its data lacks {lacking(config, task)}.",
            f"Import tasks such as {{'{config.video_key}': 'https://.../clip.mp4', "
            f"'{INSTRUCTION_KEY}': 'the red car'}}.",
        )
    if len(video) > MAX_ADDRESS_LENGTH:
        raise TaskError(
            f"{name}: its `{config.video_key}` has {len(video)} characters, {MAX_ADDRESS_LENGTH} are allowed: "
            f"{video[:60]!r}...",
            "Set it to the video's address; a video inside the task's data cannot be read.",
        )
    params = dict(params or {})
    if config.instructions and (instruction is None or not str(instruction).strip()):
        params["instructions"] = [list(pair) for pair in config.instructions]
        for label, text in config.instructions:
            _check_length(f"The instruction of the label {label!r}", text)
        instruction = "; ".join(f"{label}: {text}" for label, text in config.instructions)
    elif isinstance(instruction, str):
        _check_length(f"The instruction of task {task.id}", instruction)
    if not isinstance(instruction, str) or not instruction.strip():
        raise TaskError(
            f"{name} has no instruction: its data lacks `{INSTRUCTION_KEY}`.",
            f"Add `{INSTRUCTION_KEY}` to the task's data, type it on the task's page, or give the project's "
            'labels instructions: <Label value="car" instruction="the red car"/>.',
        )
    return JobRequest(
        "prelabel",
        project.id,
        task.id,
        video.strip(),
        instruction.strip(),
        queue,
        {**params, **engine.params},
        engine.model_version,
    )


def compared_with(request: JobRequest, second: str) -> JobRequest:
    """The same request, run by a second engine too; a different job from the one without it."""
    params = PrelabelParams.model_validate({**dict(request.params), "second": second})
    return replace(request, params=params, subject=f"compared with {second}")


def rejected_request(
    project: Project,
    engine: ChosenEngine | None,
    task: Task,
    error: TrajSegError,
    config: LabelConfig | None = None,
    typed: str | None = None,
) -> JobRequest:
    """A rejected job with its reason, stored for people to see.

    Args:
        engine: None if the chosen one is not offered.
        config: locates the video; without a configuration, the key `video` is used.
        typed: the instruction, if it was typed on the page; else the task data's is used.
    """
    video = config.video_of(task.data) if config else task.data.get("video")
    instruction = typed or task.data.get(INSTRUCTION_KEY)
    return JobRequest(
        "prelabel",
        project.id,
        task.id,
        storable(video)[:MAX_ADDRESS_LENGTH] if isinstance(video, str) else "",
        storable(instruction)[: MAX_INSTRUCTION_LENGTH + 1] if isinstance(instruction, str) else "",
        "prelabel",
        {"typed": typed is not None},
        engine.model_version if engine else "",
        error.message,
        error.remedy,
        rejection_of(error),
    )


def rejection_of(error: TrajSegError) -> Rejection:
    """What has to change before a request that raised this error can succeed."""
    return "instruction" if isinstance(error, InstructionError) else "task"


def lacking(config: LabelConfig, task: Task) -> str:
    """The missing keys of the task's data that could hold a video, for a message."""
    return ", ".join(f"`{path}`" for path in config.lacking(task.data) or [config.video_key])


def _check_length(name: str, instruction: str) -> None:
    if len(instruction.strip()) > MAX_INSTRUCTION_LENGTH:
        raise InstructionError(
            f"{name} has {len(instruction.strip())} characters, {MAX_INSTRUCTION_LENGTH} are allowed.", "Shorten it."
        )


def _check_text(name: str, key: str, value: object) -> None:
    """Raises TaskError for a value of task data that is present but not text, or not valid text."""
    if value is not None and not isinstance(value, str):
        kind = {list: "a list", dict: "an object", bool: "true or false"}.get(type(value), "a number")
        raise TaskError(f"{name}: its `{key}` is {kind}, not text.", f"Set `{key}` in the task's data to a string.")
    if isinstance(value, str) and storable(value) != value:
        raise TaskError(
            f"{name}: its `{key}` contains a lone surrogate or a NUL: {storable(value)[:80]!r}.",
            f"Set `{key}` in the task's data again: an emoji may have been cut in half.",
        )
