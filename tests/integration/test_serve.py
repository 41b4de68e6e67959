"""`trajseg serve` from the command line: real processes, real Valkey, real HTTP, real video."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from huggingface_hub import constants
from redis.backoff import NoBackoff
from redis.retry import Retry

from backend.settings import Settings
from label_config import fill
from trajseg.errors import CheckpointError, InputError, ServiceError
from worker.serve import Serve

TESTS = Path(__file__).parents[1]
PROGRAM = [sys.executable, "-P", "-c", "from trajseg.cli import main; main()", "serve"]
pytestmark = pytest.mark.timeout(400)
SECONDS = 100.0
"""Timeout for anything on a busy machine."""


def until(true: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """The first true result of `true`."""
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)
    return value


@dataclass
class Served:
    """A running `trajseg serve`, with requests in Label Studio's form."""

    process: subprocess.Popen[bytes]
    folder: Path
    output: Path
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def url(self) -> str:
        found = re.search(r"ready at (http://\S+)", self.output.read_text())
        return found.group(1) if found else ""

    def worker(self) -> int:
        """The process id of the newest worker."""
        return int(re.findall(r"worker has the process id (\d+)", self.output.read_text())[-1])

    def pace(self, seconds: float) -> None:
        """Sets the time per frame from now on."""
        (self.folder / "pace").write_text(str(seconds))

    def ask(self, instruction: str) -> str:
        """Sends the recorded request of an opened task for our clip; returns the job's id."""
        recorded = TESTS / "label_studio_payloads" / "04_open_task_POST_predict_batch.json"
        body = json.loads(recorded.read_text())["body"]
        task = body["tasks"][0]
        task["id"] = next(self.numbers)
        task["data"] = {"video": str(self.folder / "clip.mp4"), "instruction": instruction}
        body["label_config"] = fill("mask")
        answer = httpx.post(f"{self.url}/predict", json=body, verify=False)
        assert (answer.status_code, answer.json()) == (200, {"results": []})
        jobs = httpx.get(f"{self.url}/jobs", params={"task": task["id"]}, verify=False).json()["jobs"]
        return str(jobs[0]["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        form: dict[str, Any] = httpx.get(f"{self.url}/jobs/{job_id}", verify=False).json()
        return form

    def wait_for(self, job_id: str, state: str) -> dict[str, Any]:
        until(lambda: self.job(job_id)["state"] == state)
        return self.job(job_id)

    def wait_for_frame(self, job_id: str) -> None:
        until(lambda: self.job(job_id)["progress"]["frames_done"] > 0)

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(SECONDS)


def start(folder: Path, clip: Path, *options: str) -> Served:
    """Starts `trajseg serve` with `folder`, without waiting."""
    if not (folder / "clip.mp4").exists():
        # Folders with these names are common; ours must still be found.
        for name in ("backend", "worker"):
            (folder / name).mkdir()
        shutil.copy(clip, folder / "clip.mp4")
    (folder / "pace").write_text("0")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TRAJSEG_", "LABEL_STUDIO"))}
    for name in ("REDIS_URL", "DATABASE_URL"):
        kept.pop(name, None)
    environment = {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(TESTS / "worker"), str(TESTS.parent)]),
        "SCRIPTED_PACE": str(folder / "pace"),
        "TRAJSEG_MODEL": "scripted_engine:build",
        "TRAJSEG_MEDIA_DIRS": str(folder),
        "TRAJSEG_RECONCILE_SECONDS": "0.5",
    }
    output = folder / "output.txt"
    with output.open("wb") as written:
        process = subprocess.Popen(
            [*PROGRAM, "--port", "0", "--data-dir", str(folder / "data"), *options],
            env=environment,
            stdout=written,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    return Served(process, folder, output)


def ready(served: Served) -> Served:
    until(lambda: served.url or served.process.poll() is not None)
    assert served.url, served.output.read_text()
    return served


def left_over(folder: Path) -> list[str]:
    """Command lines of processes that still use `folder`; the worker's is in its environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in environment + command and command:
            found.append(command.replace(b"\0", b" ").decode())
    return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Any) -> Iterator[Served]:
    running = start(tmp_path_factory.mktemp("served"), tiny_clip.path)
    try:
        yield ready(running)
    finally:
        running.stop()


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "served" in request.fixturenames:
        request.getfixturevalue("served").pace(0)


def test_a_sentence_about_a_video_becomes_tracks(served: Served) -> None:
    job = served.wait_for(served.ask("the red and the blue square"), "done")
    assert job["tracks"] == 2
    assert job["model_version"] == "scripted-paced"
    result = httpx.get(f"{served.url}/jobs/{job['id']}/result").json()
    assert result["version"] == 1
    assert [track["caption"] for track in result["tracks"]] == ["something red", "something blue"]
    assert len(result["tracks"][0]["frames"]) == 12
    assert len(list((served.folder / "data" / "media" / job["id"]).glob("*.jpg"))) == 12


@pytest.mark.slow
def test_without_label_studio_the_prediction_waits_and_nothing_complains(served: Served) -> None:
    job = served.wait_for(served.ask("anything green"), "done")
    # A job is done once its tracks are stored; only then is it delivered.
    assert "no Label Studio token" in until(lambda: served.job(job["id"])["delivery"]["last_error"])
    assert served.job(job["id"])["delivery"]["state"] == "pending"
    until(lambda: "delivery waits" in served.output.read_text())
    assert "Traceback" not in served.output.read_text()
    assert "was not delivered" not in served.output.read_text()


def test_a_bad_job_tells_its_reason_over_http(served: Served) -> None:
    job = served.wait_for(served.ask("divide by zero"), "failed")
    assert "ZeroDivisionError" in job["error"]
    assert job["remedy"]


def test_a_running_job_can_be_cancelled_and_the_next_one_begins(served: Served) -> None:
    served.pace(0.5)
    job_id, next_id = served.ask("red, to be cancelled"), served.ask("red, the next")
    served.wait_for_frame(job_id)
    bearer = {"Authorization": f"Bearer {Settings(data_dir=served.folder / 'data').job_token()}"}
    assert httpx.post(f"{served.url}/jobs/{job_id}/cancel", headers=bearer).json()["state"] == "cancelled"
    served.pace(0)
    served.wait_for(next_id, "done")
    assert served.job(job_id)["state"] == "cancelled"


@pytest.mark.slow
def test_a_worker_that_is_killed_is_started_again_and_its_job_is_done(served: Served) -> None:
    served.pace(0.5)
    job_id = served.ask("red, and the worker dies")
    served.wait_for_frame(job_id)
    killed = served.worker()
    os.kill(killed, signal.SIGKILL)
    served.pace(0)
    job = served.wait_for(job_id, "done")
    assert job["runs"] == 2
    assert served.worker() != killed


def embedded(served: Served) -> redis.Redis:
    config = dict(line.split(" ", 1) for line in (served.folder / "data/valkey/valkey.conf").read_text().splitlines())
    return redis.Redis(port=int(config["port"]), password=config["requirepass"])


def test_a_queue_that_is_wiped_loses_nothing(served: Served) -> None:
    served.pace(0.5)
    first, second = served.ask("red, before the wipe"), served.ask("blue, before the wipe")
    served.wait_for_frame(first)
    with embedded(served) as connection:
        connection.flushall()
    # The reconciler leaves very new jobs to the request that created them.
    with sqlite3.connect(served.folder / "data" / "trajseg.db", timeout=30) as store:
        store.execute("UPDATE jobs SET created_at = '2000-01-01 00:00:00' WHERE id = ?", (second,))
    served.pace(0)
    served.wait_for(first, "done")
    served.wait_for(second, "done")


def test_a_queue_server_that_dies_is_started_again(served: Served) -> None:
    with embedded(served) as connection:
        pid = int(connection.info("server")["process_id"])
    os.kill(pid, signal.SIGKILL)
    job_id = served.ask("blue, after the queue died")
    with sqlite3.connect(served.folder / "data" / "trajseg.db", timeout=30) as store:
        store.execute("UPDATE jobs SET created_at = '2000-01-01 00:00:00' WHERE id = ?", (job_id,))
    served.wait_for(job_id, "done")


def test_the_embedded_queue_refuses_strangers(served: Served) -> None:
    with embedded(served) as connection:
        port = connection.connection_pool.connection_kwargs["port"]
    once = Retry(NoBackoff(), 0)
    with redis.Redis(port=port, retry=once) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    assert (served.folder / "data/valkey/valkey.conf").stat().st_mode & 0o077 == 0


def test_a_second_serve_on_the_same_folder_is_refused(served: Served) -> None:
    settings = Settings(data_dir=served.folder / "data", port=0)
    with pytest.raises(InputError, match=f"process {served.process.pid}"):
        Serve(settings, print).run()


def test_a_port_that_is_taken_is_named(served: Served, tmp_path: Path) -> None:
    port = int(served.url.rpartition(":")[2])
    with pytest.raises(ServiceError, match=str(port)):
        Serve(Settings(data_dir=tmp_path, port=port), print).run()
    assert left_over(tmp_path) == []


def test_ctrl_c_gives_a_long_job_back_and_leaves_no_process(served: Served) -> None:
    served.pace(1)
    job_id = served.ask("red, when everything stops")
    served.wait_for_frame(job_id)
    began = time.monotonic()
    assert served.stop(signal.SIGINT) == 0
    assert time.monotonic() - began < 20
    assert left_over(served.folder) == []
    assert "Traceback" not in served.output.read_text().partition("Stopping")[2]
    with sqlite3.connect(served.folder / "data" / "trajseg.db") as store:
        assert store.execute("SELECT state FROM jobs WHERE id = ?", (job_id,)).fetchone() == ("queued",)


@pytest.mark.slow
def test_a_killed_serve_leaves_no_process_and_the_next_one_resumes(tmp_path: Path, tiny_clip: Any) -> None:
    first = ready(start(tmp_path, tiny_clip.path))
    first.pace(0.3)
    job_id = first.ask("red, and everything dies")
    first.wait_for_frame(job_id)
    first.process.kill()
    first.process.wait()
    second = start(tmp_path, tiny_clip.path)
    try:
        ready(second)
        second.wait_for(job_id, "done")
    finally:
        assert second.stop() == 0
    until(lambda: not left_over(tmp_path))


def test_what_is_stopped_while_it_loads_does_not_call_itself_ready(tmp_path: Path) -> None:
    lines: list[str] = []
    service = Serve(Settings(data_dir=tmp_path, port=0), lines.append)
    service.stopping.set()
    service.run()
    assert lines[0] == "Loading trajseg-tiny ..."
    assert not [line for line in lines if "ready" in line]
    assert lines[-1] == "Stopped."


def test_a_model_that_cannot_be_loaded_ends_serve_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no_such_module"):
        Serve(Settings(data_dir=tmp_path, port=0, model="no_such_module:build"), print).run()
    assert left_over(tmp_path) == []


def test_a_model_whose_weights_are_missing_ends_serve_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    lines: list[str] = []
    with pytest.raises(CheckpointError, match=r"Qwen3-VL-4B-Instruct .* are not on this machine"):
        Serve(Settings(data_dir=tmp_path / "data", port=0, model="grounded"), lines.append).run()
    assert lines == []
    assert not (tmp_path / "data").exists()
