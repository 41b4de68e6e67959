"""SIGTERM at any moment of a worker's job, before it and after it; real processes."""

from __future__ import annotations

import signal
import time

import pytest

from backend.reconcile import reconcile
from tests.worker_bench import SECONDS, Bench

MOMENTS = (0.0, 0.02, 0.1, 0.25, 0.4, 0.6, 0.8, 1.1)
"""Seconds after the worker has claimed the job; it takes about one."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sigterm_at_any_moment_of_a_job_neither_fails_nor_doubles_it(bench: Bench) -> None:
    bench.valkey.start()
    bench.pace(0.08)
    jobs = [bench.ask(f"red {number}") for number in range(len(MOMENTS))]
    for job, moment in zip(jobs, MOMENTS, strict=True):
        bench.queue.enqueue(job)
        worker = bench.worker()
        bench.wait_for(job, "running")
        time.sleep(moment)
        worker.send_signal(signal.SIGTERM)
        # It finishes the current job.
        assert worker.wait(SECONDS) == 0, bench.output()
        held = bench.store.jobs.get(job.id)
        # A run that was asked to stop does not count as one that may have died.
        assert (held.state, held.error) == ("done", ""), moment
        assert held.runs <= 1, moment
        assert bench.store.jobs.result(job.id).tracks
    assert reconcile(bench.store, bench.queue, bench.settings, grace_seconds=0).enqueued == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_second_sigterm_at_any_moment_gives_the_job_back_and_the_next_run_ends_it(bench: Bench) -> None:
    bench.valkey.start()
    bench.pace(0.25)
    jobs = [bench.ask(f"red {number}") for number in range(3)]
    for job, moment in zip(jobs, (0.0, 0.6, 1.5), strict=True):
        bench.queue.enqueue(job)
        worker = bench.worker()
        bench.wait_for(job, "running")
        time.sleep(moment)
        worker.send_signal(signal.SIGTERM)
        time.sleep(1.2)
        worker.send_signal(signal.SIGTERM)
        worker.wait(SECONDS)
        held = bench.store.jobs.get(job.id)
        assert held.error == "", moment
        assert held.state in ("queued", "done"), moment
    bench.pace(0)
    at_once = bench.settings.model_copy(update={"stale_after_seconds": 0.0})
    reconcile(bench.store, bench.queue, at_once, grace_seconds=0)
    bench.worker("--burst").wait(SECONDS)
    for job in jobs:
        held = bench.store.jobs.get(job.id)
        assert (held.state, held.runs) == ("done", 1)
