"""The store keeps equal requests once, lets one run write, and loses nothing."""

from __future__ import annotations

import sqlite3
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from backend.settings import Settings
from backend.store import JobRequest, StaleRunError, Store, UnknownJobError
from backend.store.models import Base, Job, now
from trajseg.errors import CancelledError, InputError, ServiceError, UnknownProjectError
from trajseg.tracks import Result


def add(store: Store, task: int | None = 1, instruction: str = "the red square", **more: object) -> Job:
    project = store.projects.upsert(7, "http://studio", "<View/>", stamp="17")
    job, _ = store.jobs.add("prelabel", project.id, task, "/clip.mp4", instruction, "prelabel", **more)  # type: ignore[arg-type]
    return job


def test_migrations_create_exactly_the_tables_of_the_models(store: Store) -> None:
    with store.database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_concurrent_starts_migrate_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'fresh' / 'store.db'}"
    errors: list[BaseException] = []

    def start() -> None:
        try:
            Store(url).migrate()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert Store(url).jobs.newest() == []


def test_a_store_made_by_a_newer_version_is_refused_with_a_remedy(store: Store, settings: Settings) -> None:
    file = settings.data_dir / "trajseg.db"
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ServiceError, match="newer version") as caught:
        Store(settings.store_url).migrate()
    assert "Upgrade trajseg" in caught.value.remedy


def test_sqlite_waits_for_another_writer_and_reads_meanwhile(store: Store) -> None:
    with store.database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert int(connection.exec_driver_sql("PRAGMA busy_timeout").scalar() or 0) >= 10_000
    job = add(store)
    with store.database.write() as session:
        session.add(Job(request_key="x", kind="prelabel", queue="prelabel"))
        session.flush()
        assert store.jobs.get(job.id).state == "queued"


@pytest.mark.parametrize("url", ["mysql://a/b", "no url", "sqlite://"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(InputError):
        Store(url)


def test_a_database_that_does_not_answer_is_reported_without_its_password() -> None:
    store = Store("postgresql://me:secret@127.0.0.1:1/none")
    with pytest.raises(ServiceError) as caught:
        store.migrate()
    assert "secret" not in str(caught.value)


def test_project_takes_the_first_stamp_and_another_stamp_creates_another(
    store: Store,
) -> None:
    made = store.projects.upsert(7, "", "<View/>", title="Clips")
    set_up = store.projects.upsert(7, "http://studio", "<View>2</View>", stamp="17")
    assert set_up.id == made.id
    assert (set_up.title, set_up.hostname, set_up.stamp) == ("Clips", "http://studio", "17")
    assert store.projects.upsert(7, "", "", stamp="17").label_config == "<View>2</View>"
    another = store.projects.upsert(7, "", "<View/>", stamp="18")
    assert another.id != made.id
    assert store.projects.of_label_studio(7).id == another.id
    assert store.projects.of_label_studio(7, "17").id == made.id
    assert store.projects.get(made.id).title == "Clips"
    with pytest.raises(UnknownProjectError):
        store.projects.get(99)
    with pytest.raises(UnknownProjectError):
        store.projects.of_label_studio(99)


def test_equal_requests_at_the_same_moment_are_one_job(settings: Settings) -> None:
    stores = [Store(settings.store_url) for _ in range(4)]
    stores[0].migrate()
    project = stores[0].projects.upsert(7, "", "<View/>")
    barrier = threading.Barrier(16)
    found: list[tuple[Job, bool]] = []

    def ask(store: Store) -> None:
        barrier.wait()
        found.append(store.jobs.add("prelabel", project.id, 1, "/clip.mp4", "the red square", "prelabel"))

    threads = [threading.Thread(target=ask, args=(stores[i % 4],)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job.id for job, _ in found}) == 1
    assert sum(created for _, created in found) == 1
    assert len(stores[0].jobs.newest()) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"task_id": 2},
        {"video": "/other.mp4"},
        {"instruction": "the blue square"},
        {"model_version": "trajseg-7b"},
        {"kind": "refine"},
    ],
)
def test_requests_that_differ_are_two_jobs(store: Store, other: dict[str, object]) -> None:
    same = {"kind": "prelabel", "project_id": None, "task_id": 1, "video": "/clip.mp4"}
    same |= {"instruction": "the red square", "queue": "prelabel"}
    (first, _), (second, created) = store.jobs.add_all([JobRequest(**same), JobRequest(**(same | other))])  # type: ignore[arg-type]
    assert created
    assert first.id != second.id


def test_a_request_twice_in_one_batch_is_one_job(store: Store) -> None:
    request = JobRequest("prelabel", None, 1, "/clip.mp4", "the red square", "prelabel")
    (first, created), (second, again) = store.jobs.add_all([request, request])
    assert (first.id, created, again) == (second.id, True, False)


def test_only_the_newest_run_may_write(store: Store, result: Result) -> None:
    job = add(store)
    old = store.runs.start(job.id)
    new = store.runs.start(job.id)
    assert old
    assert new
    for write in (
        lambda: store.runs.progress(job.id, old, 1, 4),
        lambda: store.runs.heartbeat(job.id, old),
        lambda: store.runs.finish(job.id, old, result),
        lambda: store.runs.fail(job.id, old, "broken"),
    ):
        with pytest.raises(StaleRunError):
            write()
    store.runs.progress(job.id, new, 1, 4)
    assert store.jobs.get(job.id).frames_done == 1
    assert store.jobs.get(job.id).runs == 2


def test_progress_records_frames_eta_and_heartbeat(store: Store) -> None:
    job = add(store)
    token = store.runs.start(job.id)
    assert token
    with store.database.write() as session:
        held = session.get(Job, job.id)
        assert held
        held.started_at = now() - timedelta(seconds=10)
    store.runs.progress(job.id, token, 5, 20)
    held = store.jobs.get(job.id)
    assert (held.state, held.frames_done, held.frames_total) == ("running", 5, 20)
    assert held.eta_seconds == pytest.approx(30, abs=2)
    assert held.heartbeat_at is not None
    assert now() - held.heartbeat_at < timedelta(seconds=5)
    assert held.heartbeat_at.tzinfo is UTC


def test_cancelled_run_stops_at_its_next_frame_and_cannot_be_started(store: Store) -> None:
    job = add(store)
    token = store.runs.start(job.id)
    assert token
    assert store.jobs.cancel(job.id).state == "cancelled"
    with pytest.raises(CancelledError):
        store.runs.progress(job.id, token, 1, 4)
    assert store.runs.start(job.id) is None
    assert store.runs.start("unknown") is None
    with pytest.raises(UnknownJobError):
        store.jobs.cancel("unknown")


def test_a_finished_job_stays_finished_when_cancelled(store: Store, result: Result) -> None:
    job = add(store)
    store.runs.finish(job.id, store.runs.start(job.id) or "", result)
    assert store.jobs.cancel(job.id).state == "done"
    assert store.runs.start(job.id) is None


def test_finish_stores_tracks_and_delivery_and_the_result_round_trips(store: Store, result: Result) -> None:
    job = add(store)
    delivery = store.runs.finish(job.id, store.runs.start(job.id) or "", result)
    assert delivery is not None
    assert [due.id for due in store.deliveries.due()] == [delivery.id]
    held = store.jobs.result(job.id)
    assert held.to_json() == result.to_json()
    assert held.timings == {"masks": 0.5}
    assert (held.tracks[0].mask(1) == result.tracks[0].mask(1)).all()
    done = store.jobs.get(job.id)
    assert (done.state, done.model_version, done.frames_done) == ("done", "trajseg-tiny", 4)
    assert done.result
    assert "frames" not in done.result["tracks"][0]


def test_nothing_is_written_when_finish_fails_half_way(store: Store, result: Result) -> None:
    job = add(store)
    token = store.runs.start(job.id) or ""
    result.tracks.append(result.tracks[0])
    with pytest.raises(Exception, match="UNIQUE"):
        store.runs.finish(job.id, token, result)
    assert store.jobs.get(job.id).state == "running"
    assert store.deliveries.of_job(job.id) is None
    result.tracks.pop()
    store.runs.finish(job.id, token, result)
    assert len(store.jobs.result(job.id).tracks) == 1


def test_no_object_is_a_valid_result(store: Store, result: Result) -> None:
    job = add(store)
    result.tracks = []
    assert store.runs.finish(job.id, store.runs.start(job.id) or "", result) is not None
    assert store.jobs.result(job.id).tracks == []


def test_a_job_without_a_task_has_no_delivery(store: Store, result: Result) -> None:
    job = add(store, task=None)
    assert store.runs.finish(job.id, store.runs.start(job.id) or "", result) is None


def test_interactive_job_is_not_delivered_while_its_page_waits(store: Store, result: Result) -> None:
    until = now() + timedelta(seconds=30)
    job = add(store, params={"answer_until": until.isoformat()})
    store.runs.finish(job.id, store.runs.start(job.id) or "", result)
    assert store.deliveries.due() == []
    assert len(store.deliveries.due(until)) == 1


def test_failed_job_has_a_reason_and_can_be_retried(store: Store, result: Result) -> None:
    job = add(store)
    store.runs.fail(job.id, store.runs.start(job.id) or "", "The video is empty.", "Upload it again.")
    failed = store.jobs.get(job.id)
    assert (failed.state, failed.error, failed.remedy) == (
        "failed",
        "The video is empty.",
        "Upload it again.",
    )
    with pytest.raises(InputError, match="no result"):
        store.jobs.result(job.id)
    again = store.jobs.retry(job.id)
    assert (again.state, again.error, again.runs) == ("queued", "", 0)
    store.runs.finish(job.id, store.runs.start(job.id) or "", result)
    store.jobs.retry(job.id)
    assert store.deliveries.of_job(job.id) is None
    assert store.runs.finish(job.id, store.runs.start(job.id) or "", result) is not None


def test_a_retry_of_an_unfinished_job_only_changes_its_queue(store: Store) -> None:
    job = add(store)
    token = store.runs.start(job.id) or ""
    assert store.jobs.retry(job.id, queue="interactive").queue == "interactive"
    store.runs.progress(job.id, token, 1, 4)


def test_backlog_has_queued_jobs_and_runs_without_heartbeat(store: Store) -> None:
    queued, alive, silent, done = (add(store, task) for task in range(4))
    store.runs.start(alive.id)
    store.runs.start(silent.id)
    store.runs.fail(done.id, store.runs.start(done.id) or "", "broken")
    with store.database.write() as session:
        held = session.get(Job, silent.id)
        assert held
        held.heartbeat_at = now() - timedelta(seconds=300)
    assert [job_id for job_id, _ in store.backlog.queued(now())] == [queued.id]
    assert [job.id for job in store.backlog.lost(120)] == [silent.id]
    assert store.runs.requeue_lost(silent.id, store.jobs.get(silent.id).run_token)
    assert store.jobs.get(silent.id).state == "queued"
    assert not store.runs.requeue_lost(alive.id, "an older token")


def test_delivery_is_claimed_once_and_kept_until_sent(store: Store, result: Result) -> None:
    job = add(store)
    delivery = store.runs.finish(job.id, store.runs.start(job.id) or "", result)
    assert delivery
    assert store.deliveries.claim(delivery.id)
    assert not store.deliveries.claim(delivery.id)
    later = datetime.now(UTC) + timedelta(seconds=60)
    store.deliveries.failed(delivery.id, "Label Studio is down.", later)
    held = store.deliveries.of_job(job.id)
    assert held
    assert (held.state, held.attempts, held.last_error) == ("pending", 1, "Label Studio is down.")
    assert store.deliveries.due() == []
    assert [due.id for due in store.deliveries.due(later)] == [delivery.id]
    store.deliveries.failed(delivery.id, "refused", None)
    assert store.deliveries.count() == {"failed": 1}
    store.deliveries.send_again(job.id)
    assert len(store.deliveries.due()) == 1
    store.deliveries.sent(delivery.id, 44)
    sent = store.deliveries.of_job(job.id)
    assert sent
    assert (sent.state, sent.prediction_id, sent.last_error) == ("sent", 44, "")
    assert store.deliveries.due() == []
