"""Leases of runs when clocks are wrong, and partial frames of a dead run; on SQLite, and PostgreSQL if available."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select, update

from backend.settings import load_settings
from backend.store import Job, StaleRunError, Store
from backend.store import deliveries as store_deliveries
from backend.store import jobs as store_jobs
from backend.store import models as store_models
from backend.store import partial as partial_frames
from backend.store import runs as store_runs
from backend.store.clock import database_now
from backend.store.models import PartialFrames
from trajseg.errors import InputError
from trajseg.tracks import Result

FRAME = {"index": 0, "masks": {}}


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    opened = Store(database_url)
    opened.migrate()
    yield opened
    opened.close()


def begin(store: Store) -> tuple[str, str]:
    job, _ = store.jobs.add("prelabel", None, None, "/clip.mp4", "the red square", "prelabel")
    token = store.runs.start(job.id)
    assert token is not None
    return job.id, token


def lost(store: Store) -> list[str]:
    return [job.id for job in store.backlog.lost(15.0)]


def shift(store: Store, job_id: str, seconds: float) -> None:
    """The same as a step of the database's clock by -seconds."""
    with store.database.write() as session:
        beat = session.execute(select(Job.heartbeat_at).where(Job.id == job_id)).scalar_one()
        assert beat is not None
        session.execute(update(Job).where(Job.id == job_id).values(heartbeat_at=beat + timedelta(seconds=seconds)))


@pytest.mark.parametrize("behind", [300.0, -300.0])
def test_a_worker_whose_clock_is_300_s_behind_or_ahead_loses_no_job(
    store: Store, monkeypatch: pytest.MonkeyPatch, behind: float
) -> None:
    right = store_models.now
    for module in (store_models, store_jobs, store_runs):
        monkeypatch.setattr(module, "now", lambda: right() - timedelta(seconds=behind))
    job_id, token = begin(store)
    store.runs.heartbeat(job_id, token)
    store.runs.progress(job_id, token, 1, 10)
    for module in (store_models, store_jobs, store_runs):
        monkeypatch.setattr(module, "now", right)
    assert lost(store) == [], "the backend, whose clock is right, takes the job away"
    shift(store, job_id, -20)
    assert lost(store) == [job_id], "a run that is really lost is found"


@pytest.mark.parametrize("behind", [300.0, -300.0])
def test_a_worker_whose_clock_is_300_s_behind_or_ahead_delays_no_delivery_and_makes_none_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch, behind: float
) -> None:
    """A worker 300 s ahead made its deliveries due in five minutes, and one 300 s behind claimed none."""
    right = store_models.now

    def set_clock(now: Callable[[], datetime]) -> None:
        for module in (store_models, store_jobs, store_runs, store_deliveries):
            monkeypatch.setattr(module, "now", now)

    project = store.projects.upsert(1, "http://127.0.0.1:8080", "<View/>")
    job, _ = store.jobs.add("prelabel", project.id, 1, "/clip.mp4", "the red square", "prelabel")
    token = store.runs.start(job.id) or ""
    result = Result("/clip.mp4", 10.0, 32, 24, 2, "the red square", "", "trajseg-tiny", [])
    set_clock(lambda: right() - timedelta(seconds=behind))
    delivery = store.runs.finish(job.id, token, result)
    set_clock(right)
    assert delivery is not None
    assert [due.id for due in store.deliveries.due()] == [delivery.id], "the backend does not see it in time"
    set_clock(lambda: right() - timedelta(seconds=behind))
    assert store.deliveries.claim(delivery.id)
    set_clock(right)
    assert not store.deliveries.claim(delivery.id), "the backend makes it a second time"
    store.deliveries.failed(delivery.id, "busy", store.now() + timedelta(seconds=60))
    assert not store.deliveries.claim(delivery.id)
    store.deliveries.release_all()
    assert store.deliveries.claim(delivery.id)


def test_a_clock_that_steps_back_hides_a_lost_job_no_longer_than_a_lease(store: Store) -> None:
    job_id, token = begin(store)
    shift(store, job_id, 300)
    assert store.runs.renew_future_leases() == 1
    assert lost(store) == [], "a live run gets the time to send its next heartbeat"
    shift(store, job_id, -20)
    assert lost(store) == [job_id]
    store.runs.heartbeat(job_id, token)
    assert (lost(store), store.runs.renew_future_leases()) == ([], 0)


def test_database_clock_is_read_as_utc(store: Store) -> None:
    with store.database.read() as session:
        present = database_now(session)
    assert abs((present - store_models.now()).total_seconds()) < 5


def test_a_stale_after_below_two_heartbeats_is_refused_with_the_least_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAJSEG_STALE_AFTER_SECONDS", "9")
    with pytest.raises(InputError, match=r"TRAJSEG_STALE_AFTER_SECONDS: .*10"):
        load_settings()


def test_only_the_newest_run_keeps_frames(store: Store) -> None:
    job_id, old = begin(store)
    assert store.partial.add(job_id, old, "key", [FRAME])
    token = store.runs.start(job_id) or ""
    with pytest.raises(StaleRunError):
        store.partial.add(job_id, old, "key", [FRAME])
    assert store.partial.add(job_id, token, "key", [{**FRAME, "index": 1}])
    assert [frame["index"] for frame in store.partial.read(job_id, "key")] == [0, 1]
    assert store.partial.read(job_id, "of another model version") == []


@pytest.mark.parametrize("end", ["finish", "fail", "cancel", "give up", "retry"])
def test_kept_frames_are_dropped_however_the_job_ends(store: Store, end: str) -> None:
    job_id, token = begin(store)
    store.partial.add(job_id, token, "key", [FRAME])
    if end == "finish":
        store.runs.finish(job_id, token, None)
    elif end == "fail":
        store.runs.fail(job_id, token, "no such video")
    elif end == "cancel":
        store.jobs.cancel(job_id)
    else:
        store.jobs.give_up(job_id, "its worker died")
    with store.database.read() as session:
        assert session.scalars(select(PartialFrames)).all() == []
    if end == "retry":
        assert store.jobs.retry(job_id).state == "queued"


def test_kept_frames_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_frames, "MAX_BYTES", 60)
    job_id, token = begin(store)
    kept = [store.partial.add(job_id, token, "key", [{**FRAME, "index": index}]) for index in range(4)]
    assert kept == [True, False, False, False]
    assert len(store.partial.read(job_id, "key")) == 1
