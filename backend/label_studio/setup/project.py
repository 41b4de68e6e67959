"""Creates a Label Studio project that is ready for use: configuration, videos, tasks, ML backend."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from backend.addresses import has_scheme, is_own_path, shown_address
from backend.http.auth import SECRET_HEADER
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.outgoing.columns import DOUBT_KEY
from backend.label_studio.setup import videos
from backend.label_studio.setup.videos import Placed, Say
from label_config import LabelConfig, View, fill, parse
from label_config.values import assigned, is_reference
from trajseg.engines.base import check_instruction
from trajseg.errors import InputError, LabelConfigError, LabelStudioError
from trajseg.files import printable

MOST_DOUBTFUL_FIRST = "Uncertainty sampling"
"""Label Studio's name for it."""
HIDDEN_COLUMNS = (
    "tasks:inner_id",
    "tasks:cancelled_annotations",
    "tasks:annotations_results",
    "tasks:predictions_results",
    "tasks:predictions_model_versions",
    "tasks:file_upload",
    "tasks:storage_filename",
    "tasks:created_at",
    "tasks:updated_at",
    "tasks:completed_at",
    "tasks:annotations_ids",
    "tasks:updated_by",
    "tasks:draft_exists",
    "tasks:avg_lead_time",
)
HELP = (
    "<p>Each label (track-1, track-2, ...) is one object of the instruction. Correct the masks on the "
    "pictures with brush and eraser, then submit: your changes are propagated to all other frames and come "
    "back as a new prediction. With Auto-Annotation on, type another instruction to get its tracks, or choose "
    "hint and the smart tool and draw a rectangle around an object to get one.</p>"
)


@dataclass(frozen=True)
class Wanted:
    """A task to create: a video (path or URL) and an instruction."""

    video: str
    instruction: str


@dataclass(frozen=True)
class Backend:
    """The ML backend to connect: its address as seen from Label Studio, and Basic authentication if any.

    The title becomes the project's model version; uncertainty sampling considers only predictions of that version.
    The engine runs the project's jobs; empty: the backend's default. `compare` is a second engine for pre-labelling.
    """

    url: str
    user: str = ""
    password: str = ""
    title: str = "trajseg"
    engine: str = ""
    compare: str = ""

    @property
    def extra_params(self) -> dict[str, Any]:
        """What Label Studio sends with each /setup."""
        named = {"engine": self.engine, "compare": self.compare}
        return {key: name for key, name in named.items() if name}

    webhook_secret: str = ""


@dataclass(frozen=True)
class Created:
    """A project that was created."""

    project_id: int
    url: str
    task_ids: tuple[int, ...]
    backend_id: int | None


def wanted(
    video_paths: Sequence[str],
    instructions: Sequence[str],
    jsonl: Path | None = None,
    label_studio_url: str = "",
    by_label: bool = False,
) -> list[Wanted]:
    """Every video with every instruction, followed by the lines of a JSONL file of {"video", "instruction"}.

    Args:
        by_label: the project's labels have instructions, so a video needs none.

    A relative path in the file is relative to the file's folder. Raises InputError, InstructionError.
    """
    if video_paths and not instructions and not by_label:
        raise InputError("The videos have no instruction.", "Give at least one with --instruction.")
    texts = [check_instruction(text) for text in dict.fromkeys(instructions)] or [""]
    made = [Wanted(video, text) for video, text in product(video_paths, texts)]
    if jsonl is not None:
        made += _lines(jsonl, label_studio_url)
    if not made:
        raise InputError("There are no videos to create tasks from.", "Name videos, or a JSONL file with --tasks.")
    return list(dict.fromkeys(made))


def create_project(
    client: LabelStudioClient,
    title: str,
    view: View,
    tasks: Sequence[Wanted],
    *,
    backend: Backend | None,
    labels: Sequence[str] = (),
    instructions: Mapping[str, str] | None = None,
    max_bytes: int = 4 * 2**30,
    numbers: bool = True,
    say: Say = print,
) -> Created:
    """Creates the project, connects the backend, and adds the tasks.

    Videos and connection are checked first, so that a failure leaves no half-made project behind.
    Raises VideoError, LabelConfigError, LabelStudioError.
    """
    for video in dict.fromkeys(task.video for task in tasks):
        videos.check(video, max_bytes, client.url)
    xml = fill(view, labels or None, instructions)
    project_id = client.create_project(
        title,
        xml,
        # Predictions are shown to annotators, and requested when a task without one is opened.
        show_collab_predictions=True,
        enable_empty_annotation=True,
        expert_instruction=HELP,
        show_instruction=False,
        # The prediction with the lowest score comes first.
        sampling=MOST_DOUBTFUL_FIRST,
    )
    try:
        backend_id = connect(client, project_id, backend) if backend else None
        add_views(client, project_id, xml)
        task_ids = add_tasks(client, project_id, tasks, max_bytes=max_bytes, numbers=numbers, say=say)
    except BaseException:
        client.delete_project(project_id)
        raise
    return Created(project_id, f"{client.url}/projects/{project_id}/data", tuple(task_ids), backend_id)


def connect(client: LabelStudioClient, project_id: int, backend: Backend) -> int:
    """Connects the backend to a project and returns the connection's id. Raises LabelStudioError."""
    try:
        backend_id = client.connect_backend(
            project_id,
            backend.url,
            title=backend.title,
            user=backend.user,
            password=backend.password,
            extra_params=backend.extra_params,
        )
        authorize_webhooks(client, project_id, backend)
        return backend_id
    except LabelStudioError as error:
        if error.remedy:
            raise
        raise LabelStudioError(
            error.message,
            f"Label Studio itself must reach {backend.url}: start the backend (`trajseg serve`), set "
            "TRAJSEG_PUBLIC_URL, and run `trajseg doctor`.",
        ) from error


def choose_engine(client: LabelStudioClient, project_id: int, backend: Backend) -> None:
    """Runs a project's next jobs on another engine: Label Studio stores the choice and passes it to the backend.

    Raises LabelStudioError if the backend is not connected to the project or rejects the engine.
    """
    ours = [one for one in client.ml_backends(project_id) if str(one.get("url", "")).rstrip("/") == backend.url]
    if not ours:
        raise LabelStudioError(
            f"The backend {backend.url} is not connected to project {project_id}.",
            "Name it with --backend-url as the project's settings show it under Model.",
        )
    kept = ours[0].get("extra_params")
    others = kept.items() if isinstance(kept, dict) else ()
    extra = {name: value for name, value in others if name not in ("engine", "compare")}
    client.change_backend(
        int(ours[0]["id"]),
        project_id,
        backend.url,
        title=backend.title,
        extra_params=extra | backend.extra_params,
        user=backend.user,
        password=backend.password,
    )


def webhooks_of(client: LabelStudioClient, project_id: int, url: str) -> list[dict[str, Any]]:
    """The project's webhooks that point to a backend."""
    return [one for one in client.webhooks(project_id) if str(one.get("url", "")).rstrip("/") == f"{url}/webhook"]


def webhook_headers(user: str, password: str, secret: str) -> dict[str, str]:
    """The headers that webhooks must carry: Basic authentication and the secret, if set."""
    headers = {SECRET_HEADER: secret} if secret else {}
    if user:
        token = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        headers["Authorization"] = f"Basic {token}"
    return headers


def authorize_webhooks(client: LabelStudioClient, project_id: int, backend: Backend) -> None:
    """Adds the backend's user and password to webhooks; Label Studio sends them with its other requests only."""
    headers = webhook_headers(backend.user, backend.password, backend.webhook_secret)
    for webhook in webhooks_of(client, project_id, backend.url) if headers else ():
        client.update_webhook(int(webhook["id"]), headers={**(webhook.get("headers") or {}), **headers})


def add_views(client: LabelStudioClient, project_id: int, label_config: str) -> None:
    """Tabs for the Data Manager: all tasks, and the most doubtful first, without the long columns."""
    config = parse(label_config)
    long = [f"tasks:data.{key}" for key in (config.frames_key, "frame_index", config.video_key, config.fps_key) if key]
    common = {
        "type": "list",
        "target": "tasks",
        "hiddenColumns": {"explore": [*long, *HIDDEN_COLUMNS], "labeling": [*long, *HIDDEN_COLUMNS]},
        "columnsDisplayType": {f"tasks:data.{DOUBT_KEY}": "Number"},
    }
    client.create_view(project_id, {"title": "Default", **common})
    ordering = [f"-tasks:data.{DOUBT_KEY}"]
    client.create_view(project_id, {"title": "Most doubtful first", "ordering": ordering, **common})


def add_tasks(
    client: LabelStudioClient,
    project_id: int,
    tasks: Sequence[Wanted],
    *,
    max_bytes: int = 4 * 2**30,
    numbers: bool = True,
    say: Say = print,
) -> list[int]:
    """Adds tasks to a trajseg project and returns their ids; a video of several tasks is uploaded once.

    Raises VideoError, LabelConfigError, LabelStudioError.
    """
    config = parse(str(client.project(project_id)["label_config"]))
    placed: dict[str, Placed] = {}
    for number, video in enumerate(dict.fromkeys(task.video for task in tasks), 1):
        placed[video] = videos.place(client, project_id, video, config.view == "mask", max_bytes, say, numbers)
        shown = printable(shown_address(video))
        say(f"{shown}: added to the project ({number} of {len({task.video for task in tasks})}).")
        _warn_of_rate(config, placed[video], shown, say)
    return client.add_tasks(project_id, [task_data(config, task, placed[task.video]) for task in tasks])


def _warn_of_rate(config: LabelConfig, placed: Placed, shown: str, say: Say) -> None:
    fixed = config.frame_rate
    if fixed is not None and placed.fps is not None and abs(fixed - placed.fps) > 0.001 * placed.fps:
        say(
            f"{shown}: the labelling configuration makes the editor count {fixed:g} frames a second, but the video has "
            f"{placed.fps:g}. Write {config.video_line} in the labelling configuration."
        )


def task_data(config: LabelConfig, task: Wanted, placed: Placed) -> dict[str, Any]:
    """A task's data before its first prediction.

    Label Studio's page breaks on an empty list of frames but not on a missing one, so the key is left out.
    """
    if not is_reference(config.video_value):
        raise LabelConfigError(
            f"The project's <Video> is composed, value={config.video_value!r}: trajseg cannot tell which key of the "
            "task's data holds the video.",
            'Use one key, such as value="$video", or import the tasks in Label Studio.',
        )
    values: dict[str, Any] = {config.video_key: placed.address, "instruction": task.instruction}
    if config.fps_key and placed.fps is not None:
        values[config.fps_key] = placed.fps
    if config.frames_key and placed.frames:
        values[config.frames_key] = list(placed.frames)
    data: dict[str, Any] = {}
    for key, value in values.items():
        data = assigned(data, key, value)
    if config.frames_key and placed.frames:
        data["frame_index"] = list(placed.frame_index)
    return data


def _lines(path: Path, label_studio_url: str) -> list[Wanted]:
    try:
        # `splitlines` would also split at U+2028 and U+0085, which JSON allows within a string.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.", "Give a UTF-8 file.") from error
    made = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            form = json.loads(line)
            video, instruction = form["video"], form["instruction"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"Line {number} of {path} is not a task.",
                'A line is {"video": "clip.mp4", "instruction": "the red car"}.',
            ) from error
        if not isinstance(video, str) or not isinstance(instruction, str):
            raise InputError(
                f"Line {number} of {path}: video and instruction must be text.", "Put both in quotation marks."
            )
        if not has_scheme(video) and not is_own_path(video, label_studio_url):
            video = str(path.parent / video)
        made.append(Wanted(video, check_instruction(instruction)))
    return made
