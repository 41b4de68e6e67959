"""The doctor's checks inside Label Studio: whether a backend can be connected, and the state of a project."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from backend.engines import OfferedEngines
from backend.fetch import FetchPolicy, fetched
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.forms import Task
from backend.label_studio.outgoing.columns import DOUBT_KEY, REVIEW_KEY
from backend.label_studio.outgoing.states import SETTLED, STATE_KEY
from backend.label_studio.setup import project as projects
from backend.label_studio.setup.check import Check, video_checks
from backend.label_studio.setup.serving import version_of
from backend.settings import Settings
from backend.store.kinds import KINDS
from backend.store.versions import base_of
from label_config import LabelConfig, fill, lacks, parse
from trajseg.errors import LabelStudioError, TrajSegError
from trajseg.words import counted

TASKS_LOOKED_AT = 3
"""Tasks of a project whose video is fetched and decoded."""


def try_out(client: LabelStudioClient, settings: Settings) -> Check:
    """Connects the backend to a temporary project: nothing else reveals Label Studio's SSRF settings."""
    name, url = "Connection", settings.external_url
    password = settings.basic_auth_password.get_secret_value()
    try:
        project_id = client.create_project("trajseg doctor", fill("mask"))
    except LabelStudioError as error:
        return Check(name, "fail", error.message, error.remedy or "Use the token of a user who may make projects.")
    try:
        client.connect_backend(project_id, url, title="trajseg", user=settings.basic_auth_user, password=password)
    except LabelStudioError as error:
        return _refusal(client, project_id, url, error)
    finally:
        client.delete_project(project_id)
    return Check(name, "ok", f"Label Studio reaches {url} and may use it")


def project(client: LabelStudioClient, settings: Settings, project_id: int) -> Iterator[Check]:
    """What prevents a project's tasks from being labelled."""
    name = f"Project {project_id}"
    try:
        form = client.project(project_id)
        config = parse(str(form["label_config"]))
        yield Check(name, "ok", f"{form.get('title')!r}, view {config.view}, {len(config.labels)} labels")
        for lack in lacks(str(form["label_config"])):
            yield Check(name, "warn", lack.words, f"In the project's settings under Labeling Interface: {lack.remedy}")
        yield from _settings_of(client, settings, project_id, form)
        yield from version_of(settings, project_id)
        tasks = client.tasks(project_id)
    except TrajSegError as error:
        yield Check(name, "fail", error.message, error.remedy)
        return
    if not tasks:
        yield Check(name, "warn", "it has no tasks", f"trajseg project add {project_id} VIDEOS --instruction ...")
    yield from _data_of(name, config, tasks)
    yield from _review_of(name, tasks)
    for task in tasks[:TASKS_LOOKED_AT]:
        yield from _video_of(client, settings, config, task)


def _refusal(client: LabelStudioClient, project_id: int, url: str, error: LabelStudioError) -> Check:
    name = "Connection"
    if "reserved network address" in error.message:
        # With ML_BLOCK_LOCAL_IP off, the backend's row is written and then its webhook is refused.
        setting = "SSRF_PROTECTION_ENABLED" if _rows(client, project_id) else "ML_BLOCK_LOCAL_IP"
        return Check(
            name,
            "fail",
            f"Label Studio refuses {url}, which is in a private network ({setting} is on)",
            "Start Label Studio with ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false, both, or "
            "give the backend a public address (TRAJSEG_PUBLIC_URL).",
        )
    if "authentication parameters" in error.message:
        return Check(
            name,
            "fail",
            f"the backend at {url} does not accept the user name and password set here",
            "Set the same TRAJSEG_BASIC_AUTH_USER and TRAJSEG_BASIC_AUTH_PASSWORD as for the backend.",
        )
    return Check(
        name,
        "fail",
        f"Label Studio cannot use the backend at {url}: {error.message}",
        error.remedy or "Set TRAJSEG_PUBLIC_URL to an address at which Label Studio's machine can reach the backend.",
    )


def _rows(client: LabelStudioClient, project_id: int) -> list[dict[str, Any]]:
    try:
        return client.ml_backends(project_id)
    except LabelStudioError:
        return []


def _settings_of(
    client: LabelStudioClient, settings: Settings, project_id: int, form: dict[str, Any]
) -> Iterator[Check]:
    name = f"Project {project_id}"
    backends = client.ml_backends(project_id)
    ours = [one for one in backends if str(one.get("url", "")).rstrip("/") == settings.external_url]
    if not ours:
        urls = ", ".join(str(one.get("url")) for one in backends) or "none"
        yield Check(
            name,
            "fail",
            f"the backend {settings.external_url} is not connected (connected: {urls})",
            "Connect it in the project's settings under Model, with interactive preannotations on.",
        )
    elif settings.basic_auth_user and not _has_password(ours[0], settings.basic_auth_user):
        yield Check(
            name,
            "fail",
            "the backend requires a user name and password, but the project's connection to it sends "
            f"{'those of ' + repr(ours[0].get('basic_auth_user')) if ours[0].get('basic_auth_user') else 'none'}: "
            "every request from Label Studio is rejected",
            "In the project's settings under Model, edit the backend: Basic authentication, with "
            "TRAJSEG_BASIC_AUTH_USER and TRAJSEG_BASIC_AUTH_PASSWORD.",
        )
    elif ours[0].get("state") not in ("CO", "PR", "TR"):
        yield Check(
            name,
            "fail",
            f"the backend is connected, but Label Studio cannot use it: {ours[0].get('error_message')}",
            "Start the backend, then open the project's settings under Model.",
        )
    elif not ours[0].get("is_interactive"):
        yield Check(
            name,
            "warn",
            "interactive preannotations are off: an instruction typed in the page does nothing",
            "Switch them on for the backend in the project's settings under Model.",
        )
    else:
        yield Check(name, "ok", "the backend is connected and interactive")
    if ours:
        yield from _webhook_of(client, settings, project_id)
    yield _sampling_of(name, form, settings)
    if not form.get("show_collab_predictions"):
        yield Check(
            name,
            "warn",
            "predictions are not shown to annotators",
            "Switch on 'Use predictions to prelabel tasks' in the project's settings under Annotation.",
        )


def _has_password(backend: dict[str, Any], user: str) -> bool:
    """Whether Label Studio sends this user name, and a password, to a project's backend."""
    sends = backend.get("auth_method") == "BASIC_AUTH" and backend.get("basic_auth_user") == user
    # Label Studio does not return the password itself.
    return sends and backend.get("basic_auth_pass_is_set") is not False


def _webhook_of(client: LabelStudioClient, settings: Settings, project_id: int) -> Iterator[Check]:
    """Whether webhooks announce annotations; without them a sweep finds them later."""
    name = f"Project {project_id}"
    late = f"annotations are still found within {settings.annotation_sweep_seconds:g} s"
    held = projects.webhooks_of(client, project_id, settings.external_url)
    if not held:
        yield Check(
            name,
            "warn",
            f"no webhook points to {settings.external_url}/webhook: {late}",
            "Add it in the project's settings under Webhooks, for all actions.",
        )
        return
    headers = projects.webhook_headers(
        settings.basic_auth_user,
        settings.basic_auth_password.get_secret_value(),
        settings.webhook_secret.get_secret_value(),
    )
    if not any(one.get("is_active") for one in held):
        yield Check(name, "warn", f"the webhook is switched off: {late}", "Switch it on under Webhooks.")
    elif not any(headers.items() <= (one.get("headers") or {}).items() for one in held):
        yield Check(
            name,
            "warn",
            f"the webhook lacks the right header {' and '.join(sorted(headers))}, and is rejected: {late}",
            "Add it under Webhooks, or connect the backend with `trajseg project create`.",
        )
    else:
        yield Check(name, "ok", "a webhook announces annotations at once")


def _sampling_of(name: str, form: dict[str, Any], settings: Settings) -> Check:
    """Whether the label stream starts with the most doubtful task."""
    # Label Studio looks for predictions of the project's model version, which is the backend's title.
    versions = OfferedEngines.from_settings(settings).versions.values()
    named = base_of(str(form.get("model_version") or ""))
    if form.get("sampling") == projects.MOST_DOUBTFUL_FIRST and named in versions:
        return Check(name, "ok", "the label stream starts with the most doubtful task")
    order = str(form.get("sampling") or "unknown").lower()
    return Check(name, "ok", f"tasks are ordered by {order!r}; the Data Manager can sort by {DOUBT_KEY}")


def _review_of(name: str, tasks: list[Task]) -> Iterator[Check]:
    """Whether predicted tasks say which frames to review next."""
    states = {task.id: str(task.data.get(STATE_KEY) or "").partition("; ")[0] for task in tasks}
    predicted = [task for task in tasks if states[task.id] in SETTLED]
    without = [task.id for task in predicted if DOUBT_KEY not in task.data]
    if without:
        yield Check(
            name,
            "warn",
            f"tasks {_some(without)} have a prediction but no `{DOUBT_KEY}` to sort by",
            "They were predicted by an older version: POST /jobs/<id>/retry predicts them again.",
        )
    elif predicted:
        refined = sum(states[task.id] == KINDS["refine"].task_state for task in predicted)
        words = f"{counted(len(predicted), 'task')} with a prediction, {refined} of them refined from corrections"
        yield Check(name, "ok", f"{words}; {REVIEW_KEY} says where to look")


def _data_of(name: str, config: LabelConfig, tasks: list[Task]) -> Iterator[Check]:
    for key in (config.video_key, *(() if config.instructions else ("instruction",))):
        values = (
            (task, config.video_of(task.data) if key == config.video_key else task.data.get(key)) for task in tasks
        )
        without = [task.id for task, value in values if not value]
        if without:
            yield Check(name, "fail", f"tasks {_some(without)} have no `{key}`", f"Add `{key}` to their data.")
    if config.view == "mask":
        empty = [task.id for task in tasks if config.frames_of(task.data) == []]
        if empty:
            yield Check(
                name,
                "fail",
                f"tasks {_some(empty)} have an empty `{config.frames_key}`: their pages do not open",
                f"Remove `{config.frames_key}` from their data, or wait for the first prediction.",
            )
    if config.fps_key:
        without = [task.id for task in tasks if config.fps_of(task.data) is None]
        if without:
            yield Check(
                name,
                "warn",
                f"tasks {_some(without)} have no `{config.fps_key}`: the editor counts 24 frames a second",
                "The first prediction sets it.",
            )


def _video_of(client: LabelStudioClient, settings: Settings, config: LabelConfig, task: Task) -> Iterator[Check]:
    address = str(config.video_of(task.data) or "")
    fixed = config.frame_rate is not None
    # Tasks without a rate are named by _data_of.
    rate = config.rate_for(task.data) if fixed or config.fps_of(task.data) is not None else None
    name = f"task {task.id}"
    try:
        if address:
            # Annotators write this address, so it is fetched under the same rules as in a worker.
            policy = FetchPolicy.from_settings(settings)
            with fetched(address, settings.data_dir / "downloads", policy) as path:
                yield from video_checks(name, path, rate, fixed, config.video_line)
    except TrajSegError as error:
        yield Check("Video", "fail", f"{name}: {error.message}", error.remedy)


def _some(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
