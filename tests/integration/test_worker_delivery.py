"""A job from the upload in Label Studio to the prediction there, also if Label Studio is down in between."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from backend.composition import compose
from backend.http.app import create_app
from backend.label_studio.outgoing import delivery as deliveries
from backend.label_studio.outgoing.courier import Courier
from backend.queue import JobQueue
from backend.reconcile import reconcile
from backend.settings import Settings
from backend.store import Delivery, Job, Store
from backend.store.models import now
from tests.backend.label_studio.conftest import PERSONAL, FakeLabelStudio
from trajseg.engines.base import PLAIN, RunContext
from trajseg.engines.segmentation import Segmentation
from trajseg.video import Clip
from worker import run as worker_run
from worker.run import keep
from worker.state import WorkerState


def run(job_id: str) -> None:
    """Runs a job, and waits until its delivery was tried."""
    worker_run.run(job_id)
    assert worker_run._resident is not None
    assert worker_run._resident.hand.finish(20)


@dataclass
class Scene:
    """A Label Studio with a project, and trajseg's settings for it."""

    studio: Any
    project: int
    settings: Settings
    store: Store
    queue: JobQueue

    def ask(self, video: str, instruction: str = "the red and the blue square") -> Job:
        task = self.studio.add_task(self.project, video=video, instruction=instruction)
        known = self.store.projects.upsert(self.project, self.studio.url, "<View/>")
        return self.store.jobs.add("prelabel", known.id, task, video, instruction, "prelabel")[0]

    def delivery(self, job: Job) -> Delivery:
        held = self.store.deliveries.of_job(job.id)
        assert held is not None
        return held

    def reconcile(self) -> None:
        """A round of the reconciler, which has no queue but must still deliver."""
        reconcile(self.store, self.queue, self.settings, grace_seconds=0)
        Courier(self.store, self.settings).round(grace_seconds=0)


@pytest.fixture
def scene(tmp_path: Path, tiny_clip: Any, scripted_engine: Any) -> Iterator[Scene]:
    studio = FakeLabelStudio()
    project = studio.add_project("mask", ["track-1", "track-2"])
    studio.uploads[1] = (f"upload/{project}/1-clip.mp4", tiny_clip.path.read_bytes())
    settings = Settings(
        label_studio_url=studio.url, label_studio_api_key=SecretStr(PERSONAL), data_dir=tmp_path / "data"
    )
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    made = Scene(studio, project, settings, store, JobQueue("redis://127.0.0.1:9/0"))
    keep(WorkerState(settings, store, scripted_engine))
    yield made
    keep(None)
    store.close()
    studio.stop()


def test_an_upload_comes_back_as_a_prediction_with_its_key_frames(scene: Scene) -> None:
    job = scene.ask(f"/data/upload/{scene.project}/1-clip.mp4")
    run(job.id)
    assert scene.delivery(job).state == "sent"
    (prediction,) = scene.studio.of_task(job.task_id)
    assert prediction["model_version"] == "scripted"
    data = scene.studio.tasks[job.task_id]["data"]
    assert data["frame_index"] == list(range(12))
    assert data["video"] == job.video
    page = create_app(compose(scene.settings, scene.store, scene.queue)).test_client()
    for link in data["frames"]:
        answer = page.get(urlsplit(link).path)
        assert (answer.status_code, answer.mimetype) == (200, "image/jpeg")


def engine_that_loses(scene: Scene, engine: Any) -> Any:
    """Label Studio goes down while the engine is at work."""

    class Engine:
        spec = engine.spec

        def segment(self, clip: Clip, instruction: str, context: RunContext = PLAIN) -> Segmentation:
            segmentation: Segmentation = engine.segment(clip, instruction, context)
            scene.studio.failures = 1_000
            return segmentation

    return Engine()


def test_a_prediction_waits_while_label_studio_is_down_and_is_sent_once(
    scene: Scene, scripted_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "FIRST_RETRY_SECONDS", 0.0)
    keep(WorkerState(scene.settings, scene.store, engine_that_loses(scene, scripted_engine)))
    job = scene.ask(f"/data/upload/{scene.project}/1-clip.mp4")
    run(job.id)
    assert scene.store.jobs.get(job.id).state == "done"
    waiting = scene.delivery(job)
    assert (waiting.state, waiting.attempts) == ("pending", 1)
    assert "Label Studio" in waiting.last_error
    scene.studio.failures = 0
    scene.reconcile()
    scene.reconcile()
    assert scene.delivery(job).state == "sent"
    assert len(scene.studio.of_task(job.task_id)) == 1


def test_a_video_that_is_not_there_fails_and_can_be_requested_again(scene: Scene) -> None:
    job = scene.ask(f"/data/upload/{scene.project}/2-gone.mp4")
    run(job.id)
    failed = scene.store.jobs.get(job.id)
    assert failed.state == "failed"
    assert re.search(r"2-gone\.mp4 .* 404", failed.error)
    assert failed.remedy
    scene.studio.uploads[2] = (f"upload/{scene.project}/2-gone.mp4", scene.studio.uploads[1][1])
    scene.store.jobs.retry(job.id)
    run(job.id)
    assert scene.delivery(job).state == "sent"


def test_label_studio_away_keeps_jobs_waiting_for_their_videos_instead_of_failing_them(scene: Scene) -> None:
    jobs = [scene.ask(f"/data/upload/{scene.project}/1-clip.mp4") for _ in range(3)]
    scene.studio.failures = 1_000
    for job in jobs:
        run(job.id)
    for job in (scene.store.jobs.get(job.id) for job in jobs):
        assert (job.state, job.runs) == ("queued", 0)
        assert re.search("Label Studio .* 503", job.waiting_for)
        assert job.not_before is not None
        assert now() < job.not_before < now() + timedelta(seconds=6)
    scene.studio.failures = 0
    run(jobs[0].id)
    assert scene.store.jobs.get(jobs[0].id).waiting_for == ""
    assert scene.delivery(jobs[0]).state == "sent"
    # After one job got its video, the others continue at once.
    assert scene.store.jobs.get(jobs[1].id).not_before is None


def test_a_job_waits_as_long_as_a_busy_label_studio_wants_before_its_video_is_fetched(scene: Scene) -> None:
    """429 with Retry-After: the job used to fail permanently."""
    job = scene.ask(f"/data/upload/{scene.project}/1-clip.mp4")
    scene.studio.failures, scene.studio.failing = 1_000, (429, {"Retry-After": "120"})
    run(job.id)
    waiting = scene.store.jobs.get(job.id)
    assert (waiting.state, waiting.runs) == ("queued", 0)
    assert "429" in waiting.waiting_for
    assert waiting.not_before is not None
    assert timedelta(seconds=110) < waiting.not_before - now() <= timedelta(seconds=120)
    scene.studio.failures = 0
    run(job.id)
    assert scene.delivery(job).state == "sent"


@pytest.mark.parametrize("folder", ["media", "downloads"])
def test_a_job_whose_folder_cannot_be_written_waits_and_is_done_when_it_can(scene: Scene, folder: str) -> None:
    """A full disk: the job used to fail with an unexpected error."""
    place = scene.settings.data_dir / folder
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("in the way")
    job = scene.ask(f"/data/upload/{scene.project}/1-clip.mp4")
    run(job.id)
    waiting = scene.store.jobs.get(job.id)
    assert (waiting.state, waiting.runs, waiting.error) == ("queued", 0, "")
    assert f"cannot be stored in {place}" in waiting.waiting_for
    place.unlink()
    run(job.id)
    assert scene.delivery(job).state == "sent"


def test_a_job_that_label_studio_kept_waiting_for_longer_than_anybody_waits_fails(scene: Scene) -> None:
    job = scene.ask(f"/data/upload/{scene.project}/1-clip.mp4")
    scene.studio.failures = 1_000
    run(job.id)
    with scene.store.database.write() as session:
        held = session.get(Job, job.id)
        assert held is not None
        held.waiting_since = now() - timedelta(hours=25)
    run(job.id)
    failed = scene.store.jobs.get(job.id)
    assert failed.state == "failed"
    assert "503" in failed.error


@pytest.mark.parametrize("gone", ["task", "project"])
def test_a_job_whose_task_was_deleted_is_cancelled_and_not_computed(scene: Scene, gone: str) -> None:
    job = scene.ask(f"/data/upload/{scene.project}/1-clip.mp4")
    del scene.studio.tasks[job.task_id]
    if gone == "project":
        del scene.studio.projects[scene.project]
    run(job.id)
    left = scene.store.jobs.get(job.id)
    assert (left.state, left.error, left.frames_done) == ("cancelled", "", 0)
    assert scene.store.deliveries.of_job(job.id) is None
    assert scene.studio.predictions == {}
