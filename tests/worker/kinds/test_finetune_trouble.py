"""Trainings when something fails: the disk, the database, another run; the child process is scripted, but real."""

from __future__ import annotations

import dataclasses
import fcntl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from backend.engines import OfferedEngines
from backend.exporting import ExportReport
from backend.retention import drop_trainings
from backend.service.training import request_training
from backend.settings import Settings
from backend.store import Job, Store
from backend.store.models import now
from tests.scripted import ScriptedEngine
from trajseg.errors import ServiceError, StoreError
from trajseg.training.child import LOCK, NOT_STORED
from worker.kinds import finetune
from worker.run import keep, run
from worker.state import WorkerState

BASE = "trajseg-tiny"
ENGINES = OfferedEngines(BASE, {BASE: BASE})
DECIDES = """
import json, pathlib, sys, time
work = pathlib.Path(sys.argv[1]).parent
(work / "begun").open("a").write("x")
for _ in range(int(sys.argv[4])):
    if (work / "stop").exists():
        (work / "saved").touch()
        sys.exit(3)
    time.sleep(0.1)
(work / "decision.json").write_text(json.dumps({"promoted": False, "reason": "Not promoted.", "needs_videos": 0}))
"""


class World(SimpleNamespace):
    """A worker with an engine that can be fine-tuned, and a project."""

    store: Store
    settings: Settings
    resident: WorkerState

    def training(self, project: int = 12) -> Job:
        """A training whose corrections are already exported."""
        row = self.store.projects.upsert(project, "http://127.0.0.1:9", "<View/>")
        job, _ = request_training(self.store, row, ENGINES)
        corrections = self.work(job) / "corrections"
        corrections.mkdir(parents=True)
        (corrections / "manifest.json").write_text("{}")
        return job

    def work(self, job: Job) -> Path:
        return self.settings.data_dir / "training" / job.id

    def states(self) -> list[str]:
        return [version.state for version in self.store.versions.list()]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    engine: Any = ScriptedEngine()
    engine.spec = dataclasses.replace(engine.spec, model_version=BASE, adapts=True)
    settings = Settings(data_dir=tmp_path / "data")
    resident = WorkerState(settings, store, engine)
    keep(resident)
    yield World(store=store, settings=settings, resident=resident)
    keep(None)
    store.close()


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Replaces the program of the child process; the returned list gets each process that is started."""
    started: list[Any] = []

    def replace(program: str = DECIDES, tenths: int = 0) -> list[Any]:
        def spawn(command: list[str], output: Any) -> subprocess.Popen[bytes]:
            started.append(subprocess.Popen([sys.executable, "-c", program, *command[-3:], str(tenths)], stdout=output))
            return started[-1]

        monkeypatch.setattr(finetune, "spawn", spawn)
        return started

    return replace


def assert_saved_and_returned(world: World, job: Job, started: list[Any]) -> None:
    """The child saved its state and ended by itself; the job is queued, and the run does not count."""
    held = world.store.jobs.get(job.id)
    assert (held.state, held.runs, held.error) == ("queued", 0, "")
    assert (world.work(job) / "saved").exists()
    assert [process.returncode for process in started] == [3]


def test_a_full_disk_makes_the_training_wait_and_names_the_folder(world: World, child: Any) -> None:
    job = world.training()
    child(f"import sys; sys.exit({NOT_STORED})")
    run(job.id)
    held = world.store.jobs.get(job.id)
    assert (held.state, held.runs, held.error) == ("queued", 0, ""), held.error
    assert f"cannot be stored in {world.settings.data_dir}: the disk is full or read-only" in held.waiting_for
    assert "Free some disk, or move TRAJSEG_DATA_DIR." in held.waiting_for
    assert (world.work(job) / "corrections" / "manifest.json").exists(), "it resumes"
    child()
    run(job.id)
    assert world.store.jobs.get(job.id).state == "done"
    assert not world.work(job).exists()


def test_a_folder_that_the_worker_cannot_write_makes_the_training_wait(
    world: World, child: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = world.training()
    started = child()
    full = OSError(28, "No space left on device")
    with monkeypatch.context() as patched:
        patched.setattr(finetune, "write_json", lambda *_: (_ for _ in ()).throw(full))
        run(job.id)
    held = world.store.jobs.get(job.id)
    assert (held.state, held.runs) == ("queued", 0), held.error
    assert f"in {world.settings.data_dir}: No space left on device" in held.waiting_for
    assert started == []


def test_a_store_that_is_full_as_well_gives_the_training_back(
    world: World, child: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Store and folders are often on the same disk: then the wait itself cannot be written down."""
    job = world.training()
    child(f"import sys; sys.exit({NOT_STORED})")

    def full(*_: Any) -> None:
        raise StoreError("database or disk is full")

    monkeypatch.setattr(world.store.runs, "put_off", full)
    run(job.id)
    held = world.store.jobs.get(job.id)
    assert (held.state, held.runs, held.error) == ("queued", 0, "")


def test_a_database_that_restarts_does_not_interrupt_a_training(
    world: World, child: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = world.training()
    started = child(tenths=40)
    away = time.monotonic() + 2

    def restarting(real: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*arguments: Any) -> Any:
            if time.monotonic() < away:
                raise StoreError("The store does not answer.")
            return real(*arguments)

        return asked

    monkeypatch.setattr(world.store.runs, "heartbeat", restarting(world.store.runs.heartbeat))
    monkeypatch.setattr(world.store.preemption, "due", restarting(world.store.preemption.due))
    run(job.id)
    held = world.store.jobs.get(job.id)
    assert (held.state, held.runs) == ("done", 1), held.error
    assert len(started) == 1


def test_a_database_that_stays_away_stops_the_training_which_saves_its_state(
    world: World, child: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = world.training()
    started = child(tenths=600)
    world.settings.stale_after_seconds = 1.0

    def away(*_: Any) -> None:
        raise StoreError("The store does not answer.")

    with monkeypatch.context() as patched:
        patched.setattr(world.store.runs, "heartbeat", away)
        run(job.id)
    assert_saved_and_returned(world, job, started)


def test_a_worker_that_is_asked_to_exit_saves_its_training_and_returns_it(world: World, child: Any) -> None:
    job = world.training()
    started = child(tenths=600)
    threading.Timer(0.5, world.resident.stopping.set).start()
    run(job.id)
    assert_saved_and_returned(world, job, started)
    assert world.resident.preempted == [job.id], "the worker queues it before it exits"


def test_a_worker_that_exits_at_once_gives_its_training_a_moment_to_save(
    world: World, child: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = world.training()
    started = child(tenths=600)

    def signalled(*_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(world.store.runs, "heartbeat", signalled)
        run(job.id)
    assert_saved_and_returned(world, job, started)


def test_a_run_is_excused_once_even_if_its_worker_exits_while_the_disk_is_full(world: World, child: Any) -> None:
    job = world.training()
    died = world.store.runs.start(job.id)
    assert world.store.runs.requeue_lost(job.id, died)
    world.resident.stopping.set()
    child(f"import sys, time; time.sleep(1); sys.exit({NOT_STORED})")
    run(job.id)
    held = world.store.jobs.get(job.id)
    assert (held.state, held.runs) == ("queued", 1), "the run that died still counts"
    assert "cannot be stored" in held.waiting_for


def test_a_run_whose_job_was_taken_over_while_it_trained_decides_nothing(
    world: World, child: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if it loses its lease at the very last moment."""
    job = world.training()
    child()
    decide = world.store.versions.decide

    def late(*arguments: Any) -> Any:
        world.store.runs.start(job.id)
        return decide(*arguments)

    monkeypatch.setattr(world.store.versions, "decide", late)
    run(job.id)
    assert world.states() == ["candidate"]
    assert world.store.jobs.get(job.id).state == "running"
    assert world.work(job).exists(), "the other run needs it"


def test_a_folder_in_which_a_lost_runs_process_still_trains_is_waited_for(world: World, child: Any) -> None:
    job = world.training()
    started = child()
    with (world.work(job) / LOCK).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run(job.id)
    held = world.store.jobs.get(job.id)
    assert (held.state, held.runs) == ("queued", 0), held.error
    assert held.waiting_for.startswith("An earlier run of this training has not ended yet.")
    assert started == []
    run(job.id)
    assert world.store.jobs.get(job.id).state == "done"


def test_videos_that_cannot_be_had_now_are_waited_for_and_not_left_out(
    world: World, child: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a training that begins while Label Studio restarts knows nothing of the project."""
    job = world.training()
    (world.work(job) / "corrections" / "manifest.json").unlink()
    started = child()
    away = ExportReport(unavailable=ServiceError("Label Studio does not answer.", "Start it."))
    monkeypatch.setattr(finetune, "export_corrections", lambda *_: away)
    run(job.id)
    held = world.store.jobs.get(job.id)
    assert (held.state, held.waiting_for) == ("queued", "Label Studio does not answer. Start it."), held.error
    assert started == []


def test_a_cancelled_training_leaves_nothing_behind(world: World, child: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job = world.training()
    started = child(tenths=600)
    due = world.store.preemption.due

    def cancelled(*arguments: Any) -> bool:
        world.store.jobs.cancel(job.id)
        return due(*arguments)

    monkeypatch.setattr(world.store.preemption, "due", cancelled)
    run(job.id)
    assert world.store.jobs.get(job.id).state == "cancelled"
    assert not world.work(job).exists()
    assert started[0].poll() is not None


def test_a_worker_that_died_after_the_decision_leaves_no_folder(
    world: World, child: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = world.training()
    started = child()
    version = world.store.versions.of_job(job.project_id or 0, BASE, job.id)
    world.store.versions.decide(version.id, True, "Promoted.", "models/1", {"decision": {"promoted": True}})
    run(job.id)
    assert world.store.jobs.get(job.id).state == "done"
    assert not world.work(job).exists()
    assert started == []


def test_folders_of_trainings_that_nobody_resumes_are_deleted(world: World) -> None:
    waiting, failed, old, cancelled = (world.training(number) for number in (1, 2, 3, 4))
    unknown = world.settings.data_dir / "training" / "another-store"
    unknown.mkdir()
    for job in (failed, old):
        world.store.runs.fail(job.id, world.store.runs.start(job.id) or "", "The child died.")
    with world.store.database.write() as session:
        session.execute(update(Job).where(Job.id == old.id).values(finished_at=now() - timedelta(days=8)))
    world.store.jobs.cancel(cancelled.id)
    assert drop_trainings(world.store, world.settings) == 2
    left = {folder.name for folder in unknown.parent.iterdir()}
    assert left == {waiting.id, failed.id, unknown.name}


def test_a_training_longer_than_the_limit_of_a_run_continues_in_another_one(world: World, child: Any) -> None:
    job = world.training()
    started = child(tenths=600)
    world.settings.job_timeout_seconds = 1
    run(job.id)
    assert_saved_and_returned(world, job, started)
