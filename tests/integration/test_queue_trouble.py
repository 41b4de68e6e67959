"""A worker's jobs when Valkey fails, and after a warm shutdown of the worker; real processes."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from redis import Redis

from backend.reconcile import reconcile
from backend.store import Job
from tests.worker_bench import SECONDS, Bench

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]


def settle(bench: Bench, job: Job, state: str) -> None:
    """Reconciles like the backend until the job is in this state."""
    deadline = time.monotonic() + SECONDS
    while bench.store.jobs.get(job.id).state != state:
        assert time.monotonic() < deadline, bench.output()
        reconcile(bench.store, bench.queue, bench.settings, grace_seconds=0)
        time.sleep(0.5)


@pytest.mark.parametrize("trouble", ["away", "hangs", "emptied"])
def test_a_worker_outlives_a_queue_that_fails_while_a_job_ends(bench: Bench, trouble: str) -> None:
    bench.valkey.start()
    connection = Redis(port=bench.port)
    information: Any = connection.info("server")
    bench.pace(0.1)
    at_hand, waiting = bench.ask("red"), bench.ask("blue")
    for job in (at_hand, waiting):
        bench.queue.enqueue(job)
    worker = bench.worker()
    bench.wait_for(at_hand, "running")
    if trouble == "away":
        bench.valkey.stop()
    elif trouble == "hangs":
        os.kill(information["process_id"], signal.SIGSTOP)
    else:
        connection.flushall()
    bench.wait_for(at_hand, "done")
    time.sleep(1.0)
    if trouble == "away":
        bench.valkey.start()
    elif trouble == "hangs":
        os.kill(information["process_id"], signal.SIGCONT)
    bench.pace(0)
    settle(bench, waiting, "done")
    assert worker.poll() is None
    assert bench.store.jobs.get(at_hand.id).runs == bench.store.jobs.get(waiting.id).runs == 1
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(SECONDS) == 0


def test_three_docker_stops_do_not_fail_a_job(bench: Bench) -> None:
    bench.valkey.start()
    bench.pace(1.0)
    job = bench.ask("red")
    at_once = bench.settings.model_copy(update={"stale_after_seconds": 0.0})
    for _ in range(3):
        reconcile(bench.store, bench.queue, bench.settings, grace_seconds=0)
        worker = bench.worker()
        bench.wait_for(job, "running")
        worker.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 10
        while bench.store.jobs.get(job.id).runs:
            assert time.monotonic() < deadline, "docker stop kills after 10 s"
            time.sleep(0.05)
        worker.kill()
        worker.wait()
        assert reconcile(bench.store, bench.queue, at_once, grace_seconds=0).lost == 1
    held = bench.store.jobs.get(job.id)
    assert (held.state, held.runs) == ("queued", 0)
