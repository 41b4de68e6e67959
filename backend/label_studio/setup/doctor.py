"""The doctor: checks a set-up, from Label Studio to the checkpoint, and says how to fix what is wrong."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import ipaddress
import os
import platform
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from sqlalchemy import make_url, text
from sqlalchemy.exc import ArgumentError

from backend.label_studio.client import TESTED_VERSION, LabelStudioClient
from backend.label_studio.outgoing.delivery import connected
from backend.label_studio.setup import connection, videos
from backend.label_studio.setup.check import Check, video_checks
from backend.label_studio.setup.engines import engine_checks
from backend.label_studio.setup.serving import adapters, disk, serving_checks
from backend.settings import Settings
from backend.tls import certificate_trouble, ssl_context
from trajseg.checkpoints.folders import checkpoint_folder, never_trained
from trajseg.checkpoints.own_data import check_own_data
from trajseg.checkpoints.places import MOBILE_SAM_FILES, marks_folder
from trajseg.engines.registry import check_engine, engine_factory, engine_spec
from trajseg.errors import CheckpointError, InputError, TrajSegError
from trajseg.variables import unknown_variables

PACKAGES = (
    "trajseg",
    "label-studio-sdk",
    "av",
    "numpy",
    "rq",
    "redis",
    "sqlalchemy",
    "torch",
    "transformers",
)
SECONDS = 5.0
"""Timeout for one answer, seconds."""


def checks(
    settings: Settings, *, video: str | None = None, project_id: int | None = None, read_only: bool = False
) -> Iterator[Check]:
    """Runs all checks in turn; failures are reported, never raised.

    Args:
        video: a file or URL to check too.
        project_id: a Label Studio project to check too, with its first tasks.
        read_only: skip the check that creates (and deletes) a project in Label Studio.
    """
    yield packages()
    yield from variables()
    yield model(settings)
    for name in settings.engines:
        yield model(settings.model_copy(update={"model": name}), f"Model {name}", "TRAJSEG_ENGINES")
    for name in dict.fromkeys((settings.model, *settings.engines)):
        yield from training(settings, name)
    yield torch()
    yield from engine_checks()
    yield marks_model(settings)
    yield redis(settings)
    yield database(settings)
    yield disk(settings)
    yield from adapters(settings)
    served = list(serving_checks(settings))
    yield from served
    yield public_url(settings)
    reached = label_studio(settings)
    yield reached
    if reached.state != "fail":
        client, checked = token(settings)
        yield checked
        if client is not None:
            yield from _with_token(client, settings, project_id, read_only, served[0].state != "fail")
    if video is not None:
        yield from _video(video, settings)


def packages() -> Check:
    """Versions of the important packages."""
    found = {name: _version(name) for name in PACKAGES}
    words = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    missing = [name for name in PACKAGES[:-2] if not found[name]]
    words = f"Python {platform.python_version()}, {words}"
    if missing:
        return Check("Packages", "fail", f"{words}; missing: {', '.join(missing)}", "pip install trajseg")
    return Check("Packages", "ok", words)


def variables() -> Iterator[Check]:
    """A warning for each environment variable that looks like a setting and is none."""
    for variable in unknown_variables():
        yield Check("Settings", "warn", variable.words, variable.remedy)


def model(settings: Settings, title: str = "Model", variable: str = "TRAJSEG_MODEL") -> Check:
    """Whether the engine and its requirements are there; the engine is not loaded.

    Args:
        title: of the check.
        variable: that names the engine.
    """
    remedy = (
        f"Set {variable} to a shipped model (trajseg-tiny), an engine, a checkpoint folder, or package.module:factory."
    )
    try:
        spec = engine_spec(settings.model)
        is_checkpoint = engine_factory(settings.model) is None
    except TrajSegError as error:
        return Check(title, "fail", error.message, f"{error.remedy} {remedy}".strip())
    missing = [name for name in spec.needs if not _version(name)]
    if missing:
        return Check(
            title,
            "warn",
            f"{spec.model_version} needs {', '.join(missing)}: this machine can run the backend, but no worker",
            f"pip install {' '.join(missing)}",
        )
    try:
        check_engine(settings.model)
    except TrajSegError as error:
        words = f"{error.message} This machine can run the backend, but no worker with {spec.model_version}"
        return Check(title, "warn", words, error.remedy)
    if not is_checkpoint:
        return Check(title, "ok", f"{spec.model_version}, the engine {settings.model}")
    folder = checkpoint_folder(settings.model)
    if not list(folder.glob("*.safetensors")):
        return Check(title, "fail", f"{folder} has no weights (*.safetensors)", remedy)
    if parts := never_trained(folder):
        words = f"{spec.model_version} in {folder} means nothing yet: {', '.join(parts)} were never trained"
        return Check(title, "warn", words, "Train it with `trajseg train joint`, see docs/full_size.md.")
    return Check(title, "ok", f"{spec.model_version} in {folder}")


def training(settings: Settings, name: str) -> Iterator[Check]:
    """A warning if an engine's projects cannot be fine-tuned, because no data set is named for it."""
    with suppress(CheckpointError):
        if engine_factory(name) is None:
            try:
                check_own_data(name, settings.replay_data, settings.base_data)
            except InputError as error:
                yield Check("Training", "warn", f"no project can be fine-tuned: {error.message}", error.remedy)


def torch() -> Check:
    """Whether torch is installed; it is not imported."""
    missing = [name for name in ("torch", "torchvision", "sam2") if importlib.util.find_spec(name) is None]
    if missing:
        return Check(
            "Torch",
            "warn",
            f"{', '.join(missing)} not installed: this machine can run the backend, but no worker",
            'pip install "trajseg[model]"',
        )
    gpu = os.path.exists("/dev/nvidiactl")
    words = f"torch {_version('torch')}, {'NVIDIA driver found' if gpu else 'no NVIDIA driver: CPU'}"
    return Check("Torch", "ok", words)


def marks_model(settings: Settings) -> Check:
    """The model for boxes and clicks; it is not loaded."""
    name = settings.marks_model
    if not name:
        return Check(
            "Marks model",
            "ok",
            "TRAJSEG_MARKS_MODEL is not set: marks become masks by the engine, or by colour (GrabCut) if it takes none",
        )
    folder = marks_folder(name)
    if missing := [file for file in MOBILE_SAM_FILES if not (folder / file).is_file()]:
        words = f"{folder} lacks {', '.join(missing)}: workers cannot start"
        return Check("Marks model", "fail", words, "trajseg weights get mobile-sam --from FILE, or unset the setting.")
    if importlib.util.find_spec("onnxruntime") is None:
        words = "onnxruntime is not installed: this machine can run the backend, but no worker"
        return Check("Marks model", "warn", words, 'pip install "trajseg[marks]"')
    return Check("Marks model", "ok", f"MobileSAM in {folder}")


def redis(settings: Settings) -> Check:
    """Whether the queue's server answers."""
    if "redis_url" not in settings.model_fields_set:
        return Check("Queue", "ok", "REDIS_URL is not set: `trajseg serve` starts a server of its own")
    from redis import Redis, RedisError

    try:
        client = Redis.from_url(settings.redis_url, socket_timeout=SECONDS, socket_connect_timeout=SECONDS)
        client.ping()
    except ValueError:
        return Check("Queue", "fail", "REDIS_URL is not a Redis URL", "Write redis://host:6379/0.")
    except (RedisError, OSError) as error:
        return Check(
            "Queue",
            "fail",
            f"nothing answers at REDIS_URL: {error}",
            "Start Redis or Valkey, correct REDIS_URL, or unset it and use `trajseg serve`.",
        )
    return Check("Queue", "ok", "the server at REDIS_URL answers")


def database(settings: Settings) -> Check:
    """Whether the store can be opened; it is not created."""
    from backend.store.database import Database

    remedy = "Correct DATABASE_URL, or unset it for a file in TRAJSEG_DATA_DIR."
    try:
        url = make_url(settings.store_url)
        if url.get_backend_name() == "sqlite" and url.database:
            file = Path(url.database)
            nearest = next(folder for folder in (file, *file.absolute().parents) if folder.exists())
            if not os.access(nearest, os.W_OK):
                return Check("Store", "fail", f"{nearest} cannot be written", remedy)
            if not file.exists():
                return Check("Store", "ok", f"{file} will be created on the first start")
        store = Database(settings.store_url)
        with store.read() as session:
            session.execute(text("SELECT 1"))
        store.close()
    except TrajSegError as error:
        return Check("Store", "fail", error.message, error.remedy or remedy)
    except (ArgumentError, ValueError):
        return Check("Store", "fail", "DATABASE_URL is not a database URL", remedy)
    return Check("Store", "ok", store.name)


def public_url(settings: Settings) -> Check:
    """Whether browsers can reach the backend, as far as addresses show."""
    url, studio = urlsplit(settings.external_url), urlsplit(settings.label_studio_url)
    if studio.scheme == "https" and url.scheme == "http":
        return Check(
            "Public URL",
            "fail",
            f"Label Studio is served over https, {settings.external_url} is not: browsers block its pictures",
            "Serve the backend over https and set TRAJSEG_PUBLIC_URL to that address.",
        )
    if _loopback(url.hostname) and not _loopback(studio.hostname):
        return Check(
            "Public URL",
            "fail" if settings.public_url else "warn",
            f"{settings.external_url} means a different machine in each browser and in Label Studio",
            "Set TRAJSEG_PUBLIC_URL to an address that browsers and Label Studio can reach.",
        )
    if _loopback(url.hostname):
        return Check("Public URL", "ok", f"{settings.external_url}, for browsers on this machine only")
    return Check("Public URL", "ok", settings.external_url)


def label_studio(settings: Settings) -> Check:
    """Whether Label Studio answers, and its version."""
    url = settings.label_studio_url
    remedy = "Start Label Studio, or correct LABEL_STUDIO_URL."
    try:
        answer = httpx.get(f"{url}/api/version", timeout=SECONDS, follow_redirects=True, verify=ssl_context())
        version = str(answer.json()["release"])
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        words = f"it does not answer at {url}: {error}"
        return Check("Label Studio", "fail", words, certificate_trouble(error) or remedy)
    except InputError as error:
        return Check("Label Studio", "fail", error.message, error.remedy)
    except (ValueError, KeyError, TypeError):
        return Check("Label Studio", "fail", f"the server at {url} is not Label Studio", remedy)
    if version != TESTED_VERSION:
        return Check(
            "Label Studio",
            "warn",
            f"{version} at {url}; trajseg is tested with {TESTED_VERSION}",
            f"pip install label-studio=={TESTED_VERSION}",
        )
    return Check("Label Studio", "ok", f"{version} at {url}")


def token(settings: Settings) -> tuple[LabelStudioClient | None, Check]:
    """Whether the token works, and the client that uses it."""
    client = None
    try:
        client = connected(settings)
        owner = client.whoami()
    except TrajSegError as error:
        if client is not None:
            client.close()
        return None, Check("Token", "fail", error.message, error.remedy)
    words = f"{client.token_kind} token of {owner}"
    if client.token_kind == "access":
        return client, Check(
            "Token",
            "warn",
            f"{words}, which expires within minutes",
            "Set LABEL_STUDIO_API_KEY to the personal access token itself.",
        )
    return client, Check("Token", "ok", words)


def _with_token(
    client: LabelStudioClient, settings: Settings, project_id: int | None, read_only: bool, well: bool
) -> Iterator[Check]:
    try:
        if not read_only and well:
            yield connection.try_out(client, settings)
        if project_id is not None:
            yield from connection.project(client, settings, project_id)
    finally:
        client.close()


def _video(video: str, settings: Settings) -> Iterator[Check]:
    try:
        with videos.local_file(video, settings.download_max_bytes) as path:
            yield from video_checks(video, path)
    except TrajSegError as error:
        yield Check("Video", "fail", error.message, error.remedy)


def _loopback(host: str | None) -> bool:
    if host in (None, "localhost"):
        return True
    try:
        return ipaddress.ip_address(socket.gethostbyname(str(host))).is_loopback
    except (OSError, ValueError):
        return False


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
