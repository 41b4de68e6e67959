"""`trajseg serve` and `trajseg project create` run from the command line, and their results."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from backend.store import Store
from tests.e2e.studio import NO_TLS, TOKEN, LabelStudio, Process, free_port, wait_until
from trajseg.tracks import Result
from trajseg.tracks.formats import format_names
from trajseg.video import Clip, open_clip

HERE = Path(__file__).resolve().parent
TRAJSEG = Path(sys.executable).with_name("trajseg")
COLOUR_MODEL = "colour_engine:build"
"""An engine whose masks are known in advance."""
JOB_SECONDS = 400
"""Time limit of a job on two busy cores."""


@dataclass(frozen=True)
class Question:
    """A clip and an instruction about it."""

    video: Path
    instruction: str

    @property
    def clip(self) -> Clip:
        return open_clip(self.video)


@dataclass
class Trajseg:
    """A running `trajseg serve`: its address, its store, and the environment for the CLI."""

    url: str
    data_dir: Path
    environment: dict[str, str]
    process: Process
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.url, timeout=60, verify=NO_TLS)

    def cli(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs `trajseg ...` on the command line."""
        return subprocess.run(
            [str(TRAJSEG), *map(str, arguments)],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )

    def jobs(self, task_id: int) -> list[dict[str, Any]]:
        return self.client.get("/jobs", params={"task": task_id}).json()["jobs"]

    def job_of(self, task_id: int, instruction: str) -> dict[str, Any]:
        """The job for an instruction about a task, once it is done and delivered or answered."""

        def over() -> dict[str, Any] | None:
            for job in self.jobs(task_id):
                if job["instruction"] != instruction:
                    continue
                full = self.client.get(f"/jobs/{job['id']}").json()
                assert full["state"] not in ("failed", "cancelled"), f"{full['error']} {full['remedy']}"
                delivery = full.get("delivery") or {}
                assert delivery.get("state") != "failed", delivery
                if full["state"] == "done" and delivery.get("state") == "sent":
                    return full
            return None

        return wait_until(f"finished job of task {task_id} ({instruction!r})", over, JOB_SECONDS, every=1)

    def refinements(self, task_id: int, count: int) -> list[dict[str, Any]]:
        """The refine jobs of a task, newest first, once there are this many and all are delivered."""

        def over() -> list[dict[str, Any]] | None:
            jobs = [job for job in self.jobs(task_id) if job["kind"] == "refine"]
            assert not [job for job in jobs if job["state"] == "failed"], jobs
            done = [job for job in jobs if job["state"] == "done" and self.delivered(job["id"])]
            return jobs if len(done) == count else None

        return wait_until(f"{count} refine jobs of task {task_id}", over, JOB_SECONDS, every=0.5)

    def exported(self, project_id: int) -> dict[str, str]:
        """All text in the project's exports, by the format's name."""
        found = {}
        for name in format_names():
            answer = self.client.get(f"/projects/{project_id}/export", params={"format": name}).raise_for_status()
            with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
                texts = [archive.read(one) for one in archive.namelist() if not one.endswith(".png")]
            found[name] = b"\n".join(texts).decode()
        return found

    def delivered(self, job_id: str) -> bool:
        """Whether a job's prediction has arrived in Label Studio."""
        full = self.client.get(f"/jobs/{job_id}").json()
        return (full.get("delivery") or {}).get("state") == "sent"

    @contextmanager
    def store(self) -> Iterator[Store]:
        """Its store, beside the server."""
        store = Store(f"sqlite:///{self.data_dir / 'trajseg.db'}")
        try:
            yield store
        finally:
            store.close()

    def result(self, job_id: str) -> Result:
        """The mask tracks in the store."""
        with self.store() as store:
            return store.jobs.result(job_id)


@dataclass(frozen=True)
class MadeProject:
    """A project made by `trajseg project create`, and the task of each question."""

    id: int
    tasks: list[int]
    questions: list[Question]


@contextmanager
def serving(studio: LabelStudio, folder: Path, model: str, **more: str) -> Iterator[Trajseg]:
    """`trajseg serve` in its own process, connected to that Label Studio; it must end cleanly."""
    port = free_port()
    ours = ("TRAJSEG_", "LABEL_STUDIO_", "REDIS_URL", "DATABASE_URL")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    environment |= {
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": TOKEN,
        "TRAJSEG_PORT": str(port),
        "TRAJSEG_DATA_DIR": str(folder / "data"),
        "TRAJSEG_MODEL": model,
        "TRAJSEG_INTERACTIVE_WAIT_SECONDS": "60",
        # Several browsers keep all cores busy: a worker with low priority would delay its own test.
        "TRAJSEG_WORKER_NICE": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH")])),
    }
    environment |= more
    process = Process([str(TRAJSEG), "serve"], environment, folder / "serve.log", cwd=folder)
    try:
        health = f"http://127.0.0.1:{port}/health"
        process.wait_for(health, 180)
        wait_until("a worker", lambda: httpx.get(health, timeout=30, verify=NO_TLS).json()["ready"] or None, 180)
        running = Trajseg(f"http://127.0.0.1:{port}", folder / "data", environment, process)
        with running.client:
            yield running
        status = process.stop()
        assert status == 0, f"trajseg serve ended with {status}:\n{process.tail()}"
    finally:
        process.stop()


def make_project(
    trajseg: Trajseg, studio: LabelStudio, view: str, title: str, questions: list[Question]
) -> MadeProject:
    """Runs `trajseg project create` with a file of tasks; returns the project from Label Studio."""
    lines = [json.dumps({"video": str(q.video), "instruction": q.instruction}) for q in questions]
    listed = trajseg.data_dir / f"{title}.jsonl"
    listed.write_text("\n".join(lines))
    done = trajseg.cli("project", "create", "--title", title, "--config", view, "--tasks", listed)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"/projects/(\d+)", done.stdout)
    assert found, done.stdout
    project_id = int(found[1])
    return MadeProject(project_id, [task["id"] for task in studio.tasks(project_id)], questions)
