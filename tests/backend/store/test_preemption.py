"""Preemption: which running job yields, and to which jobs."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update

from backend.store import Job, Store
from backend.store.models import now

STALE = 15.0


@pytest.fixture
def running(store: Store) -> Job:
    """A running prelabel job."""
    return begun(store, waiting(store, "prelabel", 1))


def waiting(store: Store, queue: str, task: int, seconds: float = 5.0) -> Job:
    """A job that has waited for this long."""
    project = store.projects.upsert(1, "http://127.0.0.1:9", "<View/>")
    job, _ = store.jobs.add("prelabel", project.id, task, "a.mp4", "it", queue)
    with store.database.write() as session:
        session.execute(update(Job).where(Job.id == job.id).values(created_at=now() - timedelta(seconds=seconds)))
    return store.jobs.get(job.id)


def begun(store: Store, job: Job) -> Job:
    assert store.runs.start(job.id)
    return store.jobs.get(job.id)


def due(store: Store, job: Job) -> bool:
    return store.preemption.due(job, STALE)


def test_prelabel_yields_only_to_a_waiting_interactive_job(store: Store, running: Job) -> None:
    waiting(store, "prelabel", 2)
    waiting(store, "finetune", 3)
    assert not due(store, running)
    correction = waiting(store, "interactive", 4)
    assert due(store, running)
    begun(store, correction)
    assert not due(store, running), "another worker has taken it"


def test_interactive_jobs_never_yield(store: Store) -> None:
    running = begun(store, waiting(store, "interactive", 1))
    waiting(store, "interactive", 2)
    assert not due(store, running)


def test_a_training_yields_to_prelabels_too(store: Store) -> None:
    training = begun(store, waiting(store, "finetune", 1))
    assert not due(store, training)
    waiting(store, "prelabel", 2)
    assert due(store, training)


def test_a_job_that_an_idle_worker_is_about_to_take_preempts_nothing(store: Store, running: Job) -> None:
    waiting(store, "interactive", 2, seconds=0.0)
    assert not due(store, running)


def test_a_job_that_may_not_start_yet_preempts_nothing(store: Store, running: Job) -> None:
    job = waiting(store, "interactive", 2)
    token = store.runs.start(job.id)
    assert token
    store.runs.put_off(job.id, token, "Label Studio is away", now() + timedelta(seconds=60))
    assert not due(store, running)


def test_one_worker_yields_per_waiting_job(store: Store, running: Job) -> None:
    second, third = (begun(store, waiting(store, "prelabel", task)) for task in (2, 3))
    waiting(store, "interactive", 4)
    assert [due(store, job) for job in (running, second, third)] == [True, False, False]
    waiting(store, "interactive", 5)
    assert [due(store, job) for job in (running, second, third)] == [True, True, False]


def test_dead_worker_does_not_stop_the_others_from_yielding(store: Store, running: Job) -> None:
    second = begun(store, waiting(store, "prelabel", 2))
    with store.database.write() as session:
        dead = update(Job).where(Job.id == running.id)
        session.execute(dead.values(heartbeat_at=now() - timedelta(seconds=60)))
    waiting(store, "interactive", 3)
    assert due(store, second)
