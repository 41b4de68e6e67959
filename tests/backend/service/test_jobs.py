"""Background work on many jobs: closing ends it, and the rest stays in the store."""

from __future__ import annotations

import threading
import time

import pytest

from backend.engines import OfferedEngines
from backend.queue import JobQueue
from backend.service.jobs import JobControl
from backend.settings import Settings
from backend.store import Job, JobRequest, Store


@pytest.fixture
def jobs(store: Store) -> list[Job]:
    project = store.projects.upsert(7, "http://127.0.0.1:9", "<View/>")
    requests = [JobRequest("prelabel", project.id, number, "a.mp4", "the car", "prelabel") for number in range(60)]
    return [job for job, _ in store.jobs.add_all(requests)]


def test_closing_ends_the_queueing_of_many_jobs_between_two_of_them(
    settings: Settings, store: Store, queue: JobQueue, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    control = JobControl(store, queue, OfferedEngines.from_settings(settings))
    first, go_on, queued = threading.Event(), threading.Event(), []

    def slow(job: Job, at_front: bool = False) -> None:
        queued.append(job.id)
        first.set()
        assert go_on.wait(30)

    monkeypatch.setattr(queue, "enqueue", slow)
    control.enqueue_many(jobs)
    assert first.wait(30)
    closing = threading.Thread(target=control.close)
    closing.start()
    while not control._closing.is_set():
        time.sleep(0.01)
    go_on.set()
    closing.join(30)
    assert not closing.is_alive()
    assert queued == [jobs[0].id]
    control.enqueue_many(jobs)  # a request that was still in progress
    assert queued == [jobs[0].id]
    assert store.jobs.count() == {("prelabel", "queued"): 60}


def test_an_error_in_the_background_is_logged(
    settings: Settings,
    store: Store,
    queue: JobQueue,
    jobs: list[Job],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(job: Job, at_front: bool = False) -> None:
        raise ValueError("unforeseen")

    monkeypatch.setattr(queue, "enqueue", broken)
    control = JobControl(store, queue, OfferedEngines.from_settings(settings))
    control.enqueue_many(jobs)
    control._background.shutdown(wait=True)
    assert "background work failed" in caplog.text
    assert "unforeseen" in caplog.text
