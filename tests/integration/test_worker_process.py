"""`trajseg worker` in its own process, with a real Valkey: which jobs it runs first, and how it ends."""

from __future__ import annotations

import os
import signal
import statistics
import time

import psutil
import pytest

from backend.store.models import now
from tests.worker_bench import SECONDS, Bench

pytestmark = pytest.mark.timeout(400)


@pytest.mark.slow
def test_who_waits_in_front_of_the_page_is_served_first(bench: Bench) -> None:
    bench.valkey.start()
    asked = [bench.ask("red", "finetune"), bench.ask("blue", "prelabel"), bench.ask("green", "interactive")]
    for job in asked:
        bench.queue.enqueue(job)
    assert bench.worker("--burst").wait(SECONDS) == 0
    done = sorted((bench.store.jobs.get(job.id) for job in asked), key=lambda job: job.finished_at or job.created_at)
    assert [job.queue for job in done] == ["interactive", "prelabel", "finetune"]
    assert {job.state for job in done} == {"done"}
    assert bench.output().count("is loaded") == 1


@pytest.mark.slow
def test_a_worker_waits_for_redis_and_finishes_its_job_before_it_stops(bench: Bench) -> None:
    worker = bench.worker()
    deadline = time.monotonic() + SECONDS
    while "waiting for Redis" not in bench.output():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    bench.valkey.start()
    bench.pace(0.2)
    at_hand, waiting = bench.ask("red"), bench.ask("blue")
    for job in (at_hand, waiting):
        bench.queue.enqueue(job)
    bench.wait_for(at_hand, "running")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(SECONDS) == 0
    assert bench.store.jobs.get(at_hand.id).state == "done"
    assert bench.store.jobs.get(waiting.id).state == "queued"
    assert "Traceback" not in bench.output()


@pytest.mark.slow
def test_a_job_that_is_queued_while_a_worker_is_idle_starts_at_once(bench: Bench) -> None:
    """A worker that looked once in a while, instead of waiting at Redis, took 283 ms."""
    bench.valkey.start()
    bench.worker()
    waits = []
    for number in range(9):
        job = bench.ask(f"red {number}")
        queued = now()
        bench.queue.enqueue(job)
        done = bench.wait_for(job, "done")
        assert done.started_at
        waits.append((done.started_at - queued).total_seconds())
    # The first one also waits for the worker to start.
    assert statistics.median(waits[1:]) < 0.15, waits


def test_a_worker_leaves_the_processor_to_the_backend_beside_it(bench: Bench) -> None:
    process = psutil.Process(bench.worker(TRAJSEG_WORKER_NICE="7").pid)
    deadline = time.monotonic() + SECONDS
    while process.nice() != min(19, os.nice(0) + 7):
        assert time.monotonic() < deadline, bench.output()
        time.sleep(0.05)


def test_a_worker_without_redis_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from backend.settings import Settings
    from trajseg.errors import QueueError
    from worker import resident

    monkeypatch.setattr(resident, "FIRST_CONTACT_SECONDS", 0.0)
    with pytest.raises(QueueError, match="Redis cannot be reached") as caught:
        resident.work(Settings(redis_url=f"redis://127.0.0.1:{bench.port}/0", data_dir=bench.folder))
    assert "REDIS_URL" in caught.value.remedy
