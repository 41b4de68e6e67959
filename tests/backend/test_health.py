"""/health and /ready: live and dead processes, and the difference between live and ready."""

from __future__ import annotations

from typing import Any

from flask.testing import FlaskClient

from backend.queue import WORKERS, JobQueue


def test_a_killed_worker_is_not_counted_as_alive(client: FlaskClient, queue: JobQueue) -> None:
    queue.beat("killed")
    assert client.get("/health").get_json()["workers"] == 1
    moment: Any = queue.connection.time()
    queue.connection.zadd(WORKERS, {"killed": moment[0] - 20})
    assert client.get("/health").get_json()["workers"] == 0
    queue.beat("living")
    assert client.get("/health").get_json()["workers"] == 1
    queue.leave("living")
    assert client.get("/health").get_json()["workers"] == 0


def test_a_backend_without_workers_is_alive_and_not_ready(client: FlaskClient, queue: JobQueue) -> None:
    assert (client.get("/health").status_code, client.get("/ready").status_code) == (200, 503)
    queue.beat("worker")
    assert (client.get("/health").status_code, client.get("/ready").status_code) == (200, 200)
    assert client.get("/ready").get_json()["ready"] is True
