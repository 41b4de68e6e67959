"""`trajseg doctor` on the running service: workers, label-studio-ml, passwords added later, disks, versions."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, jsonify
from pydantic import SecretStr
from werkzeug.serving import make_server

from backend.label_studio.setup import doctor, serving
from backend.label_studio.setup.check import Check
from backend.queue import JobQueue
from backend.settings import Settings
from trajseg.checkpoints.manifest import WEIGHTS, AdapterManifest, publish


@pytest.fixture
def serve() -> Iterator[Any]:
    """Serves an application on loopback and returns its address."""
    servers = []

    def start(app: Flask) -> str:
        server = make_server("127.0.0.1", 0, app, threaded=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.port}"

    yield start
    for server in servers:
        server.shutdown()


def told(settings: Settings, name: str) -> Check:
    [check] = [check for check in serving.serving_checks(settings) if check.name == name]
    return check


def test_a_missing_worker_is_a_failure_and_a_living_one_is_counted(
    settings: Any, app: Flask, serve: Any, valkey_url: str
) -> None:
    queue = app.extensions["trajseg"].queue = JobQueue(valkey_url)
    for name in queue.connection.zrange("trajseg:workers", 0, -1):
        assert isinstance(name, str)
        queue.leave(name)
    served = settings.model_copy(update={"public_url": serve(app)})
    missing = told(served, "Workers")
    assert missing.state == "fail"
    assert "no worker is alive" in missing.words
    assert "trajseg worker" in missing.remedy
    queue.beat("w")
    assert told(served, "Workers").state == "ok"
    queue.leave("w")


def test_a_queue_that_is_down_is_reported_as_such(settings: Any, app: Flask, serve: Any) -> None:
    app.extensions["trajseg"].queue = JobQueue("redis://127.0.0.1:9/0")
    check = told(settings.model_copy(update={"public_url": serve(app)}), "Workers")
    assert check.state == "fail"
    assert "cannot reach its queue" in check.words


@pytest.mark.parametrize(("versions", "state"), [(["trajseg-tiny"], "warn"), (None, "fail")])
def test_the_adapter_is_known_by_its_host_and_needs_redis_and_a_worker(
    settings: Any, serve: Any, versions: list[str] | None, state: str
) -> None:
    host = Flask("label-studio-ml")
    host.add_url_rule("/health", "health", lambda: {"status": "UP", "model_class": "TrajSeg"})
    if versions:
        host.add_url_rule("/versions", "versions", lambda: jsonify(versions=versions))
    check = told(settings.model_copy(update={"public_url": serve(host)}), "Backend")
    assert check.state == state
    assert "label-studio-ml" in check.words
    assert ("trajseg worker" if versions else "gunicorn") in check.remedy


@pytest.mark.parametrize(("free", "state"), [(50, "ok"), (5, "warn"), (0.5, "fail")])
def test_a_disk_that_is_nearly_full_is_reported(settings: Any, monkeypatch: Any, free: float, state: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=int(free * 2**30)))
    check = serving.disk(settings)
    assert check.state == state
    assert f"{free:.1f} GiB free" in check.words
    assert bool(check.remedy) == (state != "ok")


def test_a_password_that_was_set_after_the_project_was_connected(
    settings: Any, app: Flask, serve: Any, studio: Any, client: Any
) -> None:
    served = settings.model_copy(update={"public_url": serve(app)})
    project = studio.add_project("mask")
    client.connect_backend(project, served.external_url, title="t")
    guarded = served.model_copy(update={"basic_auth_user": "u", "basic_auth_password": SecretStr("p")})

    def problems(settings: Settings) -> list[Check]:
        checks = doctor.checks(settings, project_id=project, read_only=True)
        return [check for check in checks if "requires a user name" in check.words]

    assert problems(served) == []
    [check] = problems(guarded)
    assert check.state == "fail"
    assert "sends none" in check.words
    [backend] = studio.backends.values()
    backend.update(auth_method="BASIC_AUTH", basic_auth_user="u", basic_auth_pass_is_set=True)
    assert problems(guarded) == []


def test_a_projects_adapter_must_be_whole_on_this_machine(settings: Any, store: Any) -> None:
    project = store.projects.upsert(12, "http://ls", "<View/>")
    assert list(serving.version_of(settings, 12)) == []
    version = store.versions.of_job(project.id, settings.model_version(), "job")
    store.versions.decide(version.id, True, "better", "models/12/1", {})
    [check] = serving.version_of(settings, 12)
    assert check.state == "fail"
    assert "trajseg-tiny/project-12@1" in check.words
    assert "rollback" in check.remedy


def test_adapters_that_this_machine_lacks_are_named_without_naming_a_project(settings: Any, store: Any) -> None:
    """As on a backend that does not share TRAJSEG_DATA_DIR with the worker: it could not promote or check anything."""
    assert list(serving.adapters(settings)) == []
    for number in (12, 13):
        project = store.projects.upsert(number, "http://ls", "<View/>")
        version = store.versions.of_job(project.id, settings.model_version(), f"job {number}")
        store.versions.decide(version.id, True, "better", f"models/{number}/1", {})
    [check] = serving.adapters(settings)
    assert check.state == "fail"
    assert "trajseg-tiny/project-12@1, trajseg-tiny/project-13@1 cannot be used on this machine" in check.words
    assert f"There is no folder {settings.data_dir / 'models/12/1'} on this machine." in check.words
    assert "Share TRAJSEG_DATA_DIR" in check.remedy
    for number in (12, 13):
        folder = settings.data_dir / "adapter"
        folder.mkdir(parents=True, exist_ok=True)
        for name in WEIGHTS:
            (folder / name).write_text("content")
        publish(AdapterManifest("v", "base", ""), folder, settings.data_dir / f"models/{number}/1")
    [check] = serving.adapters(settings)
    assert (check.state, check.words) == ("ok", f"2 versions of projects in {settings.data_dir / 'models'}")
    (settings.data_dir / "models/13/1" / WEIGHTS[0]).write_text("")
    [check] = serving.adapters(settings)
    assert check.words.startswith("trajseg-tiny/project-13@1 cannot be used on this machine: ")
