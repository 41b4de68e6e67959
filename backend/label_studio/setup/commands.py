"""`trajseg project` and `trajseg doctor`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from trajseg.words import counted

if TYPE_CHECKING:
    from backend.label_studio.setup.project import Backend
    from backend.settings import Settings

_MARKS = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}


@click.group()
def project() -> None:
    """Label Studio projects for mask tracks."""


_TASK_OPTIONS = (
    click.argument("videos", nargs=-1),
    click.option(
        "--instruction",
        "-i",
        "instructions",
        multiple=True,
        help="A sentence; every video gets one task for each.",
    ),
    click.option(
        "--tasks",
        "jsonl",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help='JSONL file, one task per line: {"video": ..., "instruction": ...}.',
    ),
)


def _with_tasks(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_TASK_OPTIONS):
        command = option(command)
    return command


_BACKEND_URL = click.option(
    "--backend-url",
    help="The backend's address as seen from Label Studio.  [default: TRAJSEG_PUBLIC_URL, else TRAJSEG_PORT here]",
)
_ENGINE = click.option(
    "--engine",
    default="",
    help="The engine for the project's jobs: TRAJSEG_MODEL, or one of TRAJSEG_ENGINES.  [default: TRAJSEG_MODEL]",
)

_COMPARE = click.option(
    "--compare", default="", help="A second engine to pre-label tasks with; frames on which the two differ come first."
)


@project.command()
@_with_tasks
@click.option("--title", required=True, help="Name of the project, 3 to 50 characters.")
@click.option(
    "--config",
    "view",
    type=click.Choice(["mask", "box"]),
    help="mask: paint masks on key frames; box: boxes on the video.  [default: TRAJSEG_VIEW, else mask]",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    help='Name of a track; default track-1 to track-8. "car=the red car" gives the label its own instruction; then '
    "tasks without --instruction use the instructions of all labels.",
)
@_BACKEND_URL
@click.option("--no-backend", is_flag=True, help="Do not connect a backend.")
@_ENGINE
@_COMPARE
def create(
    videos: tuple[str, ...],
    instructions: tuple[str, ...],
    jsonl: Path | None,
    title: str,
    view: str | None,
    labels: tuple[str, ...],
    backend_url: str | None,
    no_backend: bool,
    engine: str,
    compare: str,
) -> None:
    """Make a project with VIDEOS (files or URLs), a task for each video and instruction, and the backend.

    LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY name the Label Studio and the user.
    """
    from backend.label_studio.outgoing.delivery import connected
    from backend.label_studio.setup import project as projects
    from backend.settings import load_settings

    settings = load_settings()
    pairs = [label.partition("=") for label in labels]
    said = {name.strip(): text.strip() for name, _, text in pairs if text.strip()}
    tasks = projects.wanted(videos, instructions, jsonl, settings.label_studio_url, by_label=bool(said))
    backend = _backend(settings, backend_url, engine, compare)
    _tell_of_foreign_links(settings, [task.video for task in tasks])
    client = connected(settings)
    try:
        made = projects.create_project(
            client,
            title,
            "box" if (view or settings.view) == "box" else "mask",
            tasks,
            backend=None if no_backend else backend,
            labels=[name.strip() for name, _, _ in pairs],
            instructions=said,
            max_bytes=settings.download_max_bytes,
            numbers=settings.key_frame_numbers,
            say=click.echo,
        )
    finally:
        client.close()
    click.echo(f"Project {made.project_id} with {counted(len(made.task_ids), 'task')}: {made.url}")
    if made.backend_id is None:
        click.echo("No backend is connected. Connect one in the project's settings under Model.")
    else:
        click.echo(f"The backend {backend.url} is connected. Open a task, or select tasks and choose")
        click.echo("Retrieve Predictions, to get tracks.")


@project.command()
@click.argument("project_id", type=int)
@_with_tasks
def add(project_id: int, videos: tuple[str, ...], instructions: tuple[str, ...], jsonl: Path | None) -> None:
    """Add tasks to a project made by `trajseg project create`."""
    from backend.label_studio.outgoing.delivery import connected
    from backend.label_studio.setup import project as projects
    from backend.settings import load_settings

    settings = load_settings()
    tasks = projects.wanted(videos, instructions, jsonl, settings.label_studio_url)
    _tell_of_foreign_links(settings, [task.video for task in tasks])
    client = connected(settings)
    try:
        limit, numbers = settings.download_max_bytes, settings.key_frame_numbers
        ids = projects.add_tasks(client, project_id, tasks, max_bytes=limit, numbers=numbers, say=click.echo)
    finally:
        client.close()
    click.echo(f"{counted(len(ids), 'task')} added: {client.url}/projects/{project_id}/data")


@project.command()
@click.argument("project_id", type=int)
@_ENGINE
@_COMPARE
@_BACKEND_URL
def change(project_id: int, engine: str, compare: str, backend_url: str | None) -> None:
    """Run a project's next jobs on another engine.

    The choice is shown in the project's settings under Model, as an extra parameter of the backend. Existing
    predictions stay; Label Studio lists all of them in a task and shows those of the project's engine first.
    """
    from backend.label_studio.outgoing.delivery import connected
    from backend.label_studio.setup import project as projects
    from backend.settings import load_settings

    settings = load_settings()
    backend = _backend(settings, backend_url, engine, compare)
    client = connected(settings)
    try:
        projects.choose_engine(client, project_id, backend)
    finally:
        client.close()
    click.echo(f"The next jobs of project {project_id} run on {backend.engine or settings.model} ({backend.title}).")


@click.command()
@click.option("--video", help="Also check a video (a file or URL).")
@click.option("--project", "project_id", type=int, help="Also check a Label Studio project and its tasks.")
@click.option(
    "--read-only",
    is_flag=True,
    help="Create nothing in Label Studio; by default a project is made and deleted to test the connection.",
)
def doctor(video: str | None, project_id: int | None, read_only: bool) -> None:
    """Check a set-up and say how to fix what is wrong; exits with 1 if a check fails."""
    from backend.label_studio.setup.doctor import checks
    from backend.settings import load_settings

    failed, settings = False, load_settings()
    for check in checks(settings, video=video, project_id=project_id, read_only=read_only):
        mark, colour = _MARKS[check.state]
        click.echo(f"{click.style(f'{mark:4}', fg=colour)}  {check.name}: {settings.redact(check.words)}")
        if check.remedy and check.state != "ok":
            click.echo(f"      -> {settings.redact(check.remedy)}")
        failed |= check.state == "fail"
    sys.exit(1 if failed else 0)


def _backend(settings: Settings, url: str | None, engine: str, compare: str) -> Backend:
    """The backend to connect. Raises InputError if it does not offer the engine."""
    from backend.engines import OfferedEngines
    from backend.label_studio.setup.project import Backend

    engines = OfferedEngines.from_settings(settings)
    return Backend(
        (url or settings.external_url).rstrip("/"),
        settings.basic_auth_user,
        settings.basic_auth_password.get_secret_value(),
        engines.base(engine),
        engines.checked(engine),
        engines.second(engines.checked(engine), compare),
        webhook_secret=settings.webhook_secret.get_secret_value(),
    )


def _tell_of_foreign_links(settings: Settings, videos: list[str]) -> None:
    from backend.addresses import is_link, split

    known = [urlsplit(settings.label_studio_url).hostname or "", *settings.media_hosts]
    hosts = sorted({split(video).hostname or "" for video in videos if is_link(video)})
    foreign = [host for host in hosts if not any(_matches(host, pattern) for pattern in known)]
    if foreign:
        click.echo("Workers fetch videos only from allowed hosts:")
        click.echo(f"set TRAJSEG_MEDIA_HOSTS={','.join([*settings.media_hosts, *foreign])} for them.")


def _matches(host: str, pattern: str) -> bool:
    return host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:]))
