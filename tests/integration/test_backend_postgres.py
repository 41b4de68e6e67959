"""The store on PostgreSQL: the same guarantees as on SQLite. Needs TRAJSEG_TEST_POSTGRES_URL."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from backend.store import JobRequest, StaleRunError, Store
from backend.store.models import Base, Job, now
from trajseg.errors import CancelledError
from trajseg.tracks import MaskTrack, Result


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    store = Store(postgres_url)
    threads = [threading.Thread(target=Store(postgres_url).migrate) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.migrate()
    yield store
    store.close()


def add(store: Store) -> Job:
    project = store.projects.upsert(7, "http://studio", "<View/>", stamp="17")
    return store.jobs.add("prelabel", project.id, 1, "/clip.mp4", "the red square", "prelabel")[0]


def test_migrations_create_exactly_the_tables_of_the_models(store: Store) -> None:
    with store.database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_equal_requests_at_the_same_moment_are_one_job_of_one_project(store: Store) -> None:
    barrier = threading.Barrier(12)
    found: list[tuple[Job, bool]] = []

    def ask() -> None:
        barrier.wait()
        project = store.projects.upsert(7, "http://studio", "<View/>", stamp="17")
        found.append(store.jobs.add("prelabel", project.id, 1, "/clip.mp4", "the red square", "prelabel"))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert len({job.id for job, _ in found}) == 1
    assert sum(created for _, created in found) == 1
    assert {job.project_id for job, _ in found} == {store.projects.of_label_studio(7).id}


def test_many_requests_share_one_write(store: Store) -> None:
    requests = [JobRequest("prelabel", None, number, "/clip.mp4", "a", "prelabel") for number in range(700)]
    assert sum(created for _, created in store.jobs.add_all(requests)) == 700
    assert sum(created for _, created in store.jobs.add_all(requests)) == 0


def test_a_run_from_begin_to_delivery(store: Store) -> None:
    job = add(store)
    old = store.runs.start(job.id) or ""
    token = store.runs.start(job.id) or ""
    with pytest.raises(StaleRunError):
        store.runs.progress(job.id, old, 1, 2)
    store.runs.progress(job.id, token, 1, 2)
    mask = np.zeros((24, 32), bool)
    mask[4:12, 4:12] = True
    track = MaskTrack.from_masks("t1", [mask, None], (0.0, 0.1), (0.9, 0.8), label="track-1")
    result = Result("/clip.mp4", 10.0, 32, 24, 2, "the red square", "[SEG]", "trajseg-tiny", [track])
    delivery = store.runs.finish(job.id, token, result)
    assert delivery is not None
    assert store.jobs.result(job.id).to_json() == result.to_json()
    assert store.jobs.get(job.id).state == "done"
    assert [due.id for due in store.deliveries.due()] == [delivery.id]
    assert store.deliveries.claim(delivery.id)
    assert not store.deliveries.claim(delivery.id)
    store.deliveries.sent(delivery.id, 5)
    assert store.deliveries.count() == {"sent": 1}
    assert store.jobs.retry(job.id).state == "queued"
    assert [held for held, _ in store.backlog.queued(now())] == [job.id]
    token = store.runs.start(job.id) or ""
    store.jobs.cancel(job.id)
    with pytest.raises(CancelledError):
        store.runs.progress(job.id, token, 1, 2)


def test_equal_batches_in_different_orders_do_not_lock_each_other_out(store: Store) -> None:
    project = store.projects.upsert(7, "", "", stamp="17")
    keys = [(project.id, task) for task in range(400)]
    errors: list[Exception] = []
    for turn in range(4):
        batch = [JobRequest("prelabel", project.id, task, "/clip.mp4", f"{turn}", "prelabel") for task in range(400)]
        barrier = threading.Barrier(4)

        def add_all(order: int, batch: list[JobRequest] = batch, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                store.jobs.add_all(batch[::order], keys[::order])
                store.tasks.shown(keys[::order], "queued")
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=add_all, args=(order,)) for order in (1, -1, 1, -1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    assert len(store.jobs.newest(limit=5000)) == 1600
