"""Label Studio's tasks: openings, states, and the jobs that a state depends on."""

from __future__ import annotations

from datetime import timedelta

import pytest

from backend.store import Store
from backend.store.durations import typical_seconds
from backend.store.models import now
from backend.store.notes import JobNotes
from trajseg.tracks import Result


@pytest.fixture
def project(store: Store) -> int:
    return store.projects.upsert(7, "", "", stamp="1").id


def test_task_counts_as_open_for_hours_after_it_was_opened(store: Store, project: int) -> None:
    assert not store.tasks.is_open(project, 1, hours=1)
    store.tasks.settle(project, 1, "refined")
    assert not store.tasks.is_open(project, 1, hours=1)
    store.tasks.opened(project, 1)
    assert store.tasks.is_open(project, 1, hours=1)
    assert not store.tasks.is_open(project, 1, hours=0)
    assert not store.tasks.is_open(project, 2, hours=1)
    known = store.tasks.known([(project, 1), (project, 2)])
    assert {key: row.settled for key, row in known.items()} == {(project, 1): "refined"}


def test_the_jobs_of_many_tasks_are_read_together(store: Store, project: int, result: Result) -> None:
    first, _ = store.jobs.add("prelabel", project, 1, "v", "a", "prelabel")
    delivery = store.runs.finish(first.id, store.runs.start(first.id) or "", result, JobNotes(visible=1))
    assert delivery
    store.deliveries.sent(delivery.id, 5)
    store.jobs.add("prelabel", project, 1, "v", "b", "interactive", {"typed": True})
    failed, _ = store.jobs.add("prelabel", project, 2, "v", "a", "prelabel")
    store.runs.fail(failed.id, store.runs.start(failed.id) or "", "The link is dead.")
    assert set(store.tasks.active(now() - timedelta(hours=1))) == {(project, 1), (project, 2)}
    assert set(store.tasks.active(now() + timedelta(hours=1))) == set()
    jobs = store.tasks.jobs([(project, 1), (project, 2), (project, 3)])
    assert [(job.typed, job.state, job.visible, job.delivery_state) for job in jobs[project, 1]] == [
        (False, "done", 1, "sent"),
        (True, "queued", None, None),
    ]
    assert jobs[project, 1][0].sent_at is not None
    assert [(job.state, job.error) for job in jobs[project, 2]] == [("failed", "The link is dead.")]
    assert jobs[project, 3] == []


def test_tasks_that_already_show_waiting_are_not_read_again(store: Store, project: int) -> None:
    """Each round read all jobs of all waiting tasks: 10,000 of them took seconds, and delayed requests."""
    for task in range(1, 6):
        store.jobs.add("prelabel", project, task, "v", "a", "prelabel")
    keys = [(project, task) for task in range(1, 6)]
    assert store.tasks.waiting(now(), 100) == keys
    assert store.tasks.waiting(now(), 2) == keys[:2]
    assert store.tasks.waiting(now() - timedelta(hours=1), 100) == []
    store.tasks.shown(keys[:3], "found nothing; queued")
    store.tasks.shown(keys[3:4], "failed: The link is dead.")
    assert store.tasks.waiting(now(), 100) == keys[3:]
    store.jobs.add("refine", project, 1, "v", "a", "interactive")
    assert set(store.tasks.waiting(now(), 100)) == {keys[0], *keys[3:]}


def test_typical_duration_is_the_median_of_recent_jobs_of_a_model(store: Store, project: int, result: Result) -> None:
    assert typical_seconds(store.database, project, "prelabel", "trajseg-tiny") is None
    job, _ = store.jobs.add("prelabel", project, 1, "v", "a", "prelabel", model_version="trajseg-tiny")
    store.runs.finish(job.id, store.runs.start(job.id) or "", result)
    usual = typical_seconds(store.database, project, "prelabel", "trajseg-tiny")
    assert usual is not None
    assert 0 <= usual < 10
    assert typical_seconds(store.database, project, "prelabel", "another") is None
