"""Real parts for the end-to-end tests: Label Studio, `trajseg serve`, Chromium, projects made by the CLI."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from studio import ROOT, TOKEN, LabelStudio, Process, free_port, running_label_studio, wait_until  # noqa: E402

from backend.store import Store  # noqa: E402
from trajseg.tracks import Result  # noqa: E402
from trajseg.video import Clip, open_clip  # noqa: E402

TRAJSEG = Path(sys.executable).with_name("trajseg")
MODEL = os.environ.get("TRAJSEG_E2E_MODEL", "trajseg-tiny")
SHAPES_SEED = 13  # an orange ring that circles, a blue square that bounces, a red ring that moves up
SHAPES_INSTRUCTION = "the red ring"
JOB_SECONDS = 240
"""How long a job may take on two busy cores before the test gives up on it."""


@dataclass(frozen=True)
class Question:
    """A clip and what is asked about it."""

    video: Path
    instruction: str

    @property
    def clip(self) -> Clip:
        return open_clip(self.video)


@dataclass
class Trajseg:
    """A running `trajseg serve`: its address, its store, and the environment in which the CLI talks to it."""

    url: str
    data_dir: Path
    environment: dict[str, str]
    process: Process

    def cli(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `trajseg ...` as a person does."""
        return subprocess.run(
            [str(TRAJSEG), *map(str, arguments)],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )

    def jobs(self, task_id: int) -> list[dict[str, Any]]:
        return httpx.get(f"{self.url}/jobs", params={"task": task_id}, timeout=30).json()["jobs"]

    def job_of(self, task_id: int, instruction: str) -> dict[str, Any]:
        """The job for a sentence about a task once it is over and delivered or answered."""

        def over() -> dict[str, Any] | None:
            for job in self.jobs(task_id):
                if job["instruction"] != instruction:
                    continue
                full = httpx.get(f"{self.url}/jobs/{job['id']}", timeout=30).json()
                assert full["state"] not in ("failed", "cancelled"), f"{full['error']} {full['remedy']}"
                delivery = full.get("delivery") or {}
                assert delivery.get("state") != "failed", delivery
                if full["state"] == "done" and delivery.get("state") == "sent":
                    return full
            return None

        return wait_until(f"finished job of task {task_id} ({instruction!r})", over, JOB_SECONDS, every=1)

    def result(self, job_id: str) -> Result:
        """Mask tracks as the store holds them."""
        store = Store(f"sqlite:///{self.data_dir / 'trajseg.db'}")
        try:
            return store.tracks(job_id)
        finally:
            store.close()


@dataclass(frozen=True)
class MadeProject:
    """A project made by `trajseg project create`, and the task of each question."""

    id: int
    tasks: list[int]
    questions: list[Question]


@pytest.fixture(scope="session")
def pictures() -> Path:
    """Where screenshots stay after the run; git does not see it."""
    folder = ROOT / "e2e-artifacts"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> list[Question]:
    """A rendered clip of the shapes world and a real one."""
    from trajseg.data.shapes.render import write_clip
    from trajseg.data.shapes.world import sample_scene

    folder = tmp_path_factory.mktemp("clips")
    scene = sample_scene(SHAPES_SEED, "val", frame_count=24, aspect=4 / 3)
    return [
        Question(write_clip(scene, folder / "shapes.mp4", 240), SHAPES_INSTRUCTION),
        Question(Path(shutil.copy(clips / "yellow_box.mp4", folder)), "the yellow box"),
    ]


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    """Label Studio with the settings that the README asks for."""
    folder = tmp_path_factory.mktemp("label-studio")
    (folder / "media").mkdir()
    with running_label_studio(folder / "data", folder / "media") as running:
        yield running


@pytest.fixture(scope="session")
def trajseg(studio: LabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trajseg]:
    """`trajseg serve` as a process of its own, connected to that Label Studio."""
    folder = tmp_path_factory.mktemp("trajseg")
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("TRAJSEG_", "LABEL_STUDIO_"))}
    for name in ("REDIS_URL", "DATABASE_URL"):
        environment.pop(name, None)
    environment |= {
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": TOKEN,
        "TRAJSEG_PORT": str(port),
        "TRAJSEG_DATA_DIR": str(folder / "data"),
        "TRAJSEG_MODEL": MODEL,
        "TRAJSEG_INTERACTIVE_WAIT_SECONDS": "60",
    }
    process = Process([str(TRAJSEG), "serve"], environment, folder / "serve.log", cwd=folder)
    try:
        process.wait_for(f"http://127.0.0.1:{port}/health", 180)
        yield Trajseg(f"http://127.0.0.1:{port}", folder / "data", environment, process)
        status = process.stop()
        assert status == 0, f"trajseg serve ended with {status}:\n{process.tail()}"
    finally:
        process.stop()


@pytest.fixture(scope="session")
def editor(studio: LabelStudio, pictures: Path) -> Iterator[Any]:
    """A person logged in to that Label Studio, in Chromium."""
    from editor import Editor, browser_page

    with browser_page() as page:
        yield Editor(page, studio, pictures)


def make_project(
    trajseg: Trajseg, studio: LabelStudio, view: str, title: str, questions: list[Question]
) -> MadeProject:
    """`trajseg project create` with a file of tasks; gives the project as it then stands in Label Studio."""
    lines = [json.dumps({"video": str(q.video), "instruction": q.instruction}) for q in questions]
    listed = trajseg.data_dir / f"{title}.jsonl"
    listed.write_text("\n".join(lines))
    done = trajseg.cli("project", "create", "--title", title, "--config", view, "--tasks", listed)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"/projects/(\d+)", done.stdout)
    assert found, done.stdout
    project_id = int(found[1])
    return MadeProject(project_id, [task["id"] for task in studio.tasks(project_id)], questions)


@pytest.fixture(scope="session")
def mask_project(trajseg: Trajseg, studio: LabelStudio, questions: list[Question]) -> MadeProject:
    """Both clips in the mask view."""
    return make_project(trajseg, studio, "mask", "Masks", questions)


@pytest.fixture(scope="session")
def box_project(trajseg: Trajseg, studio: LabelStudio, questions: list[Question], clips: Path) -> MadeProject:
    """The clip of the shapes world and one whose frame rate varies, in the box view."""
    varying = Question(clips / "variable_frame_rate.mp4", "the yellow box")
    return make_project(trajseg, studio, "box", "Boxes", [questions[0], varying])


@pytest.fixture(scope="session")
def typing_project(trajseg: Trajseg, studio: LabelStudio, questions: list[Question]) -> MadeProject:
    """The clip of the shapes world in the mask view, for sentences that are typed in the page."""
    return make_project(trajseg, studio, "mask", "Typed", questions[:1])
