"""The doctor's checks of the running service: backend or label-studio-ml adapter, workers, disk space."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from sqlalchemy import make_url

from backend.label_studio.setup.check import Check
from backend.settings import Settings
from backend.tls import certificate_trouble, ssl_context
from trajseg.checkpoints.manifest import checked_files, read_manifest
from trajseg.errors import InputError, ServiceError, TrajSegError, UnknownProjectError
from trajseg.words import counted

if TYPE_CHECKING:
    from backend.store import Store

SECONDS = 5.0
"""Timeout for one answer, seconds."""
ADAPTER_CLASS = "TrajSeg"
"""The name that label-studio-ml's /health gives the model of backend.ml_adapter."""
SHARE = "Share TRAJSEG_DATA_DIR with the machine that trained it, or roll back with `trajseg models rollback`."
FEW_BYTES, FULL_BYTES = 10 * 2**30, 2**30
"""Free bytes below which a disk counts as nearly full, and as full."""


def serving_checks(settings: Settings) -> Iterator[Check]:
    """The backend at its public address, and the workers that run its jobs."""
    url = settings.external_url
    remedy = "Start it with `trajseg serve`, or correct TRAJSEG_PUBLIC_URL (or TRAJSEG_PORT)."
    try:
        answer = httpx.get(f"{url}/health", timeout=SECONDS, follow_redirects=True, verify=ssl_context())
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        words = f"it does not answer at {url}: {error}"
        yield Check("Backend", "fail", words, certificate_trouble(error) or remedy)
        return
    except InputError as error:
        yield Check("Backend", "fail", error.message, error.remedy)
        return
    form = _json(answer)
    if "model_version" not in form and form.get("model_class") == ADAPTER_CLASS:
        yield _adapter(settings)
    elif "model_version" not in form:
        words = f"the server at {url} is not trajseg ({answer.status_code})"
        yield Check("Backend", "fail", words, remedy)
    elif answer.status_code != 200 or form.get("status") != "UP":
        yield Check("Backend", "fail", f"{url} reports a problem: {form}", "See the backend's log.")
    else:
        yield _same_model(settings, url, str(form["model_version"]))
        yield workers(form)


def workers(form: dict[str, Any]) -> Check:
    """Whether a worker runs the jobs that the backend accepts.

    Args:
        form: the backend's answer to /health.
    """
    count, queued = form.get("workers"), form.get("jobs_queued") or 0
    wait = f"{queued} jobs wait" if queued else "jobs would wait"
    if count is None:
        return Check(
            "Workers",
            "fail",
            f"the backend cannot reach its queue ({form.get('queue')}): {wait}",
            "Start Redis or Valkey, or correct the backend's REDIS_URL; or use `trajseg serve`.",
        )
    if not count:
        words = f"no worker is alive: {wait}"
        return Check(
            "Workers",
            "fail",
            words,
            "Start `trajseg worker` with the backend's settings, or `trajseg serve`. A new worker first loads a model.",
        )
    return Check("Workers", "ok", f"{count} alive, {queued} jobs in the queue")


def disk(settings: Settings) -> Check:
    """Whether there is room for videos, shown frames and the store."""
    folder = settings.data_dir.absolute()
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(nearest).free
    words = f"{free / 2**30:.1f} GiB free for {folder}"
    remedy = (
        f"Make room, or move TRAJSEG_DATA_DIR. {Path('downloads')} in it holds fetched videos and may be emptied while "
        "no job runs."
    )
    if free < FULL_BYTES:
        return Check("Disk", "fail", f"{words}: jobs fail when it is full", remedy)
    if free < FEW_BYTES:
        return Check("Disk", "warn", f"{words}; a few long videos would fill it", remedy)
    return Check("Disk", "ok", words)


def adapters(settings: Settings) -> Iterator[Check]:
    """Whether the adapters that serve projects are complete on this machine; nothing if bases serve them all."""
    from backend.store.versions import PROMOTED

    serving = []
    with _store(settings) as store:
        if store is None:
            return
        promoted = [version for version in store.versions.list() if version.state == PROMOTED]
        pairs = dict.fromkeys((version.project_id, version.base) for version in promoted)
        serving += [version for pair in pairs if (version := store.versions.served(*pair)) is not None]
    errors = {}
    for version in serving:
        try:
            checked_files(settings.data_dir / version.folder)
        except TrajSegError as error:
            errors[version.name] = error
    if errors:
        words = f"{', '.join(errors)} cannot be used on this machine: {next(iter(errors.values())).message}"
        yield Check("Adapters", "fail", words, SHARE)
    elif serving:
        words = f"{counted(len(serving), 'version')} of projects in {settings.data_dir / 'models'}"
        yield Check("Adapters", "ok", words)


@contextmanager
def _store(settings: Settings) -> Iterator[Store | None]:
    """The store; None if it does not exist yet. An error of the database ends the block: another check names it."""
    from backend.store import Store

    url = make_url(settings.store_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        yield None
        return
    store = Store(settings.store_url)
    try:
        with suppress(ServiceError):
            yield store
    finally:
        store.close()


def version_of(settings: Settings, project_id: int) -> Iterator[Check]:
    """Whether the adapter that serves a project is complete on this machine; nothing if the base serves it."""
    name, version = f"Project {project_id}", None
    with _store(settings) as store, suppress(UnknownProjectError):
        if store is not None:
            project = store.projects.of_label_studio(project_id)
            version = store.versions.served(project.id, settings.model_version())
    if version is None:
        return
    folder = settings.data_dir / version.folder
    try:
        read_manifest(folder)
    except TrajSegError as error:
        yield Check(
            name,
            "fail",
            f"{version.name} serves it, but its adapter in {folder} is incomplete: {error.message}",
            SHARE,
        )
    else:
        yield Check(name, "ok", f"{version.name} serves it, from the adapter in {folder}")


def _adapter(settings: Settings) -> Check:
    """Checks the adapter: label-studio-ml answers /health itself, the adapter's /versions says what it serves."""
    url, user = settings.external_url, settings.basic_auth_user
    auth = (user, settings.basic_auth_password.get_secret_value()) if user else None
    try:
        answer = httpx.get(f"{url}/versions", timeout=SECONDS, auth=auth, verify=ssl_context())
        [version, *_] = _json(answer)["versions"]
    except (httpx.HTTPError, KeyError, TypeError, ValueError):
        return Check(
            "Backend",
            "fail",
            f"label-studio-ml answers at {url}, but trajseg's adapter in it does not",
            "Start it with `gunicorn --threads 16 backend.ml_adapter._wsgi:app`, with the user and password set here.",
        )
    check = _same_model(settings, f"trajseg's adapter in label-studio-ml at {url}", str(version))
    if check.state != "ok":
        return check
    return Check(
        "Backend",
        "warn",
        f"{check.words}; whether its queue and a worker are running is unknown",
        "It needs a Redis at REDIS_URL and a `trajseg worker` beside it; GET /jobs shows whether jobs are processed.",
    )


def _same_model(settings: Settings, named: str, version: str) -> Check:
    words = f"{named} serves {version}"
    if version == settings.model_version():
        return Check("Backend", "ok", words)
    return Check(
        "Backend",
        "warn",
        f"{words}, but TRAJSEG_MODEL here is {settings.model_version()}",
        "Start backend and workers with the same TRAJSEG_MODEL.",
    )


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        form = answer.json()
    except ValueError:
        return {}
    return form if isinstance(form, dict) else {}
