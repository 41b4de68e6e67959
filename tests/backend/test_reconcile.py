"""The queue is only transport: even if it is emptied, unreachable or has a dead worker, every job gets done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis
from rq import Queue
from rq.executions import Execution
from rq.job import Job as RqJob
from rq.job import JobStatus
from rq.serializers import JSONSerializer
from sqlalchemy import event

from backend.composition import compose
from backend.http.app import create_app
from backend.queue import EntryJob, JobQueue
from backend.reconcile import SETTLE_SECONDS, Reconciler, reconcile
from backend.settings import Settings
from backend.store import JobRequest, Store
from backend.store.models import Job, now
from trajseg.errors import InputError, QueueError
from worker.resident import ResidentWorker


def ask(client: FlaskClient, store: Store, predict_body: Callable[..., dict[str, Any]], *tasks: int) -> list[Job]:
    client.post("/predict", json=predict_body(*tasks))
    return store.jobs.newest()


def silence(store: Store, job: Job, runs: int = 1) -> None:
    """As if the worker had been killed."""
    store.runs.start(job.id)
    with store.database.write() as session:
        held = session.get(Job, job.id)
        assert held
        held.heartbeat_at = now() - timedelta(seconds=1000)
        held.runs = runs


def test_a_wiped_queue_is_filled_again_from_the_store(
    client: FlaskClient, store: Store, queue: JobQueue, settings: Settings, predict_body: Callable[..., dict[str, Any]]
) -> None:
    jobs = ask(client, store, predict_body, 1, 2)
    queue.connection.flushall()
    assert queue.depths()["prelabel"] == 0
    assert reconcile(store, queue, settings, grace_seconds=0).enqueued == 2
    assert all(queue.holds(job.id) for job in jobs)
    assert reconcile(store, queue, settings, grace_seconds=0).enqueued == 0
    assert queue.depths()["prelabel"] == 2


@pytest.mark.parametrize(
    ("fall_ill", "recover", "said"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "maxmemory"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "replica"),
    ],
    ids=["full", "read-only"],
)
def test_a_redis_that_takes_no_writes_loses_no_job(
    client: FlaskClient,
    store: Store,
    queue: JobQueue,
    settings: Settings,
    predict_body: Callable[..., dict[str, Any]],
    fall_ill: tuple[str, ...],
    recover: tuple[str, ...],
    said: str,
) -> None:
    other = JobQueue(settings.redis_url)
    with Redis.from_url(settings.redis_url) as connection:
        connection.execute_command(*fall_ill)
        try:
            [job] = ask(client, store, predict_body, 1)
            # Another process: this one does not try again for some seconds.
            with pytest.raises(QueueError, match=said):
                other.enqueue(job)
        finally:
            connection.execute_command(*recover)
    back = JobQueue(settings.redis_url)
    assert reconcile(store, back, settings, grace_seconds=0).enqueued == 1
    assert back.holds(job.id)
    other.close()
    back.close()


def test_a_job_just_written_is_left_to_its_request(
    client: FlaskClient, store: Store, queue: JobQueue, settings: Settings, predict_body: Callable[..., dict[str, Any]]
) -> None:
    ask(client, store, predict_body, 1)
    queue.connection.flushall()
    assert reconcile(store, queue, settings).enqueued == 0


def test_an_idle_round_asks_no_more_questions_however_many_jobs_wait(
    store: Store, queue: JobQueue, settings: Settings
) -> None:
    """It used to take 3.5 s with 10,000 queued jobs, with a Redis request for each."""

    def questions(count: int) -> tuple[int, int]:
        requests = [JobRequest("prelabel", None, number, "/clip.mp4", "a", "prelabel") for number in range(count)]
        queue.enqueue_new([job for job, new in store.jobs.add_all(requests) if new])
        statements.clear()
        before: Any = queue.connection.info("stats")
        assert reconcile(store, queue, settings, grace_seconds=0).enqueued == 0
        after: Any = queue.connection.info("stats")
        return len(statements), after["total_commands_processed"] - before["total_commands_processed"]

    statements: list[str] = []
    event.listen(store.database.engine, "before_cursor_execute", lambda *call: statements.append(call[2]))

    few, many = questions(5), questions(400)
    assert many[0] <= few[0]
    # Connecting takes a few commands.
    assert many[1] <= few[1] + 2


def test_half_a_record_in_redis_does_not_keep_a_job_out_of_its_queue(
    client: FlaskClient, store: Store, queue: JobQueue, settings: Settings, predict_body: Callable[..., dict[str, Any]]
) -> None:
    """Found by the soak: a worker went on writing into a Redis that was emptied, and the job was never run again."""
    (job,) = ask(client, store, predict_body, 1)
    queue.connection.flushall()
    queue.connection.hset(EntryJob.key_for(job.id), mapping={"status": "finished", "last_heartbeat": "x"})
    assert reconcile(store, queue, settings, grace_seconds=0).enqueued == 1
    assert queue.holds(job.id)


def test_a_job_that_changed_its_queue_while_redis_was_away_moves(
    client: FlaskClient, store: Store, queue: JobQueue, settings: Settings, predict_body: Callable[..., dict[str, Any]]
) -> None:
    (job,) = ask(client, store, predict_body, 1)
    store.jobs.retry(job.id, queue="interactive")
    assert reconcile(store, queue, settings, grace_seconds=0).enqueued == 1
    assert queue.depths() == {"interactive": 1, "prelabel": 0, "finetune": 0}


def test_a_job_that_a_worker_has_just_taken_is_not_queued_a_second_time(
    client: FlaskClient, store: Store, queue: JobQueue, settings: Settings, predict_body: Callable[..., dict[str, Any]]
) -> None:
    (job,) = ask(client, store, predict_body, 1)
    queue.connection.lrem(f"rq:queue:{job.queue}", 1, job.id)
    start = threading.Timer(SETTLE_SECONDS / 2, store.runs.start, (job.id,))
    start.start()
    assert reconcile(store, queue, settings, grace_seconds=0).enqueued == 0
    assert store.jobs.get(job.id).runs == 1


def test_a_job_whose_worker_was_killed_is_queued_again(
    client: FlaskClient, store: Store, queue: JobQueue, settings: Settings, predict_body: Callable[..., dict[str, Any]]
) -> None:
    (job,) = ask(client, store, predict_body, 1)
    queue.connection.flushall()
    silence(store, job)
    done = reconcile(store, queue, settings)
    assert (done.lost, done.enqueued, done.given_up) == (1, 1, 0)
    assert store.jobs.get(job.id).state == "queued"
    assert queue.holds(job.id)


def test_a_job_that_kills_its_workers_is_given_up_with_a_reason(
    client: FlaskClient, store: Store, queue: JobQueue, settings: Settings, predict_body: Callable[..., dict[str, Any]]
) -> None:
    (job,) = ask(client, store, predict_body, 1)
    silence(store, job, runs=settings.max_runs)
    assert reconcile(store, queue, settings).given_up == 1
    failed = store.jobs.get(job.id)
    assert failed.state == "failed"
    assert "died 3 times" in failed.error
    assert failed.remedy


def test_a_running_job_with_a_heartbeat_is_left_alone(
    client: FlaskClient, store: Store, queue: JobQueue, settings: Settings, predict_body: Callable[..., dict[str, Any]]
) -> None:
    (job,) = ask(client, store, predict_body, 1)
    token = store.runs.start(job.id) or ""
    queue.connection.flushall()
    assert reconcile(store, queue, settings, grace_seconds=0).enqueued == 0
    store.runs.progress(job.id, token, 1, 2)


def test_one_expired_record_of_a_run_in_redis_stops_no_round(
    client: FlaskClient,
    store: Store,
    queue: JobQueue,
    settings: Settings,
    bearer: dict[str, str],
    predict_body: Callable[..., dict[str, Any]],
) -> None:
    """RQ: "ValueError: Execution ... not found in Redis", in 27 rounds one after another."""
    ask(client, store, predict_body, 1, 2)
    broken, sound = store.jobs.newest()
    held = queue._held(broken.id)
    assert held is not None
    with queue.connection.pipeline() as pipeline:
        execution = Execution.create(held, ttl=1000, pipeline=pipeline, worker_name="w")
        held.set_status(JobStatus.STARTED, pipeline=pipeline)
        pipeline.lrem(f"rq:queue:{broken.queue}", 1, broken.id)
        pipeline.delete(execution.key)
        pipeline.execute()
    silence(store, broken)
    queue.connection.lrem(f"rq:queue:{sound.queue}", 1, sound.id)
    done = reconcile(store, queue, settings, grace_seconds=0)
    assert (done.lost, done.enqueued, done.troubled) == (1, 2, 0)
    assert queue.holds(broken.id)
    assert queue.holds(sound.id)
    assert client.post(f"/jobs/{broken.id}/cancel", headers=bearer).status_code == 200
    assert not queue.holds(broken.id)


def test_one_job_that_makes_trouble_is_passed_over_and_counted(
    client: FlaskClient,
    store: Store,
    queue: JobQueue,
    settings: Settings,
    predict_body: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, *_ = sorted(ask(client, store, predict_body, 1, 2, 3), key=lambda job: job.created_at)
    queue.connection.flushall()
    enqueue = queue.enqueue

    def trip(job: Job) -> None:
        if job.id == first.id:
            raise ValueError("odd")
        enqueue(job)

    monkeypatch.setattr(queue, "enqueue", trip)
    done = reconcile(store, queue, settings, grace_seconds=0)
    assert (done.enqueued, done.troubled) == (2, 1)


def test_a_job_that_waits_for_label_studio_is_queued_when_its_time_has_come(
    client: FlaskClient, store: Store, queue: JobQueue, settings: Settings, predict_body: Callable[..., dict[str, Any]]
) -> None:
    (job,) = ask(client, store, predict_body, 1)
    queue.connection.flushall()
    store.runs.put_off(job.id, store.runs.start(job.id) or "", "Label Studio is away.", now() + timedelta(hours=1))
    assert reconcile(store, queue, settings, grace_seconds=0).enqueued == 0
    assert store.jobs.release_put_off() == 1
    assert reconcile(store, queue, settings, grace_seconds=0).enqueued == 1


def test_a_hanging_label_studio_holds_up_neither_lost_jobs_nor_a_stop(
    client: FlaskClient, store: Store, queue: JobQueue, settings: Settings, predict_body: Callable[..., dict[str, Any]]
) -> None:
    (job,) = ask(client, store, predict_body, 1)
    queue.connection.flushall()
    released = threading.Event()
    reconciler = Reconciler(store, queue, settings, deliver=lambda: released.wait(30), read=list)
    silence(store, job)
    reconciler.start()
    deadline = time.monotonic() + 30
    while store.jobs.get(job.id).state != "queued":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    released.set()
    reconciler.stop()


def test_redis_down_at_predict_loses_nothing_and_answers_fast(
    settings: Settings, store: Store, queue: JobQueue, predict_body: Callable[..., dict[str, Any]]
) -> None:
    down = JobQueue("redis://127.0.0.1:1/0")
    client = create_app(compose(settings, store, down)).test_client()
    begun = time.monotonic()
    assert client.post("/predict", json=predict_body(1, 2)).json == {"results": []}
    assert time.monotonic() - begun < 2
    health = client.get("/health")
    assert health.status_code == 200
    assert health.get_json()["queue"].startswith("unreachable")
    assert "trajseg_queue_reachable 0.0" in client.get("/metrics").text
    assert len(store.jobs.newest(state="queued")) == 2
    assert reconcile(store, down, settings, grace_seconds=0).enqueued == 0
    assert reconcile(store, queue, settings, grace_seconds=0).enqueued == 2


def test_a_typed_instruction_does_not_wait_when_redis_is_down(
    settings: Settings, store: Store, bearer: dict[str, str], predict_body: Callable[..., dict[str, Any]]
) -> None:
    client = create_app(compose(settings, store, JobQueue("redis://127.0.0.1:1/0"))).test_client()
    body = predict_body(1, typed="the square", frames=["a.jpg"], frame_index=[0])
    begun = time.monotonic()
    told = client.post("/predict", json=body).get_json()["results"][0]["result"]
    assert time.monotonic() - begun < 2
    assert told[0]["value"]["text"][0].startswith("Still running:")
    (job,) = store.jobs.newest(state="queued")
    assert client.post(f"/jobs/{job.id}/cancel", headers=bearer).get_json()["state"] == "cancelled"


def test_a_redis_that_does_not_answer_is_asked_once_and_then_left_in_peace() -> None:
    # Packets to this address are dropped: only the time limit ends the wait.
    queue = JobQueue("redis://192.0.2.1:6379/0")
    begun = time.monotonic()
    for _ in range(20):
        with pytest.raises(QueueError) as caught:
            queue.ping()
        assert "REDIS_URL" in caught.value.remedy
    assert time.monotonic() - begun < 3


def test_a_url_that_is_not_redis_is_refused() -> None:
    with pytest.raises(InputError, match="REDIS_URL"):
        JobQueue("http://127.0.0.1")


def test_an_rq_worker_takes_interactive_jobs_first(
    client: FlaskClient,
    store: Store,
    queue: JobQueue,
    settings: Settings,
    predict_body: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.run.run", str)
    settings.interactive_wait_seconds = 0
    client.post("/predict", json=predict_body(1, 2))
    client.post("/predict", json=predict_body(3, typed="the blue square"))
    taken: list[str] = []

    class Noting(ResidentWorker):
        def perform_job(self, job: RqJob, queue: Queue, execution: Execution) -> bool:
            taken.append(queue.name)
            return super().perform_job(job, queue, execution)

    with Redis.from_url(settings.redis_url) as connection:
        names = ["interactive", "prelabel", "finetune"]
        Noting(names, connection=connection, job_class=EntryJob, serializer=JSONSerializer).work(burst=True)
    assert taken == ["interactive", "prelabel", "prelabel"]
    assert not any(queue.holds(job.id) for job in store.jobs.newest())


def test_the_reconciler_continues_after_a_failed_round(
    store: Store, queue: JobQueue, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.reconcile_seconds = 0.05
    rounds: list[int] = []

    def broken(*_: object, **__: object) -> None:
        rounds.append(1)
        raise RuntimeError("odd")

    monkeypatch.setattr("backend.reconcile.reconcile", broken)
    reconciler = Reconciler(store, queue, settings)
    reconciler.start()
    deadline = time.monotonic() + 30
    while len(rounds) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    reconciler.stop()
    assert len(rounds) >= 3
    assert reconciler.problems["reconciler"] == len(rounds)
