"""Trainings in real workers that are killed, paused and cut off; the model is a stand-in (tests/worker/no_torch)."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from backend.engines import OfferedEngines
from backend.reconcile import Reconciler, reconcile
from backend.service.training import request_training
from backend.store import Job, Store
from tests.worker_bench import TESTS, Bench
from trajseg.checkpoints.manifest import checked_files
from trajseg.data.sides import side_of
from trajseg.errors import CheckpointError
from trajseg.tracks import MaskTrack
from trajseg.tracks.formats import Expression, LabelledClip, LabelledTrack, export
from trajseg.tracks.formats.native import Native
from trajseg.tracks.trust import Trust
from trajseg.video import open_clip

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]
BASE = "trajseg-tiny"
STEPS = 8
MANY_STEPS = 24
SECONDS = 200.0
"""Timeout for anything on a busy machine."""


class Training:
    """One training of a project with three held-out videos, and workers for it."""

    def __init__(self, bench: Bench, clip: Any) -> None:
        self.bench, self.store, self.data = bench, bench.store, bench.folder / "data"
        bench.engine = BASE
        self.project = self.store.projects.upsert(12, "http://127.0.0.1:9", "<View/>")
        self.job: Job = request_training(self.store, self.project, OfferedEngines(BASE, {BASE: BASE}))[0]
        self.work = self.data / "training" / self.job.id
        self.target = self.data / "models" / f"project-{self.project.id}" / "1"
        self._steps: list[tuple[int, int]] = []
        export(self._corrected(clip), Native, self.work / "corrections")
        self.pace(0.2)
        bench.valkey.start()

    def _corrected(self, made: Any) -> Iterator[LabelledClip]:
        clip = open_clip(made.path)
        count = len(clip)
        track = MaskTrack.from_masks("t1", made.red, clip.frame_map.times, [0.9] * count)
        known = [f"sha256:{number}" for number in range(60)]
        held_out = [identity for identity in known if side_of(identity) == "held-out"][:3]
        for number, identity in enumerate([*held_out, next(i for i in known if side_of(i) == "train")]):
            yield LabelledClip(
                f"task-{number}",
                clip.width,
                clip.height,
                clip.fps,
                count,
                (LabelledTrack(track, (Trust.PAINTED,) * count, caption_trust=Trust.PREDICTED),),
                (Expression("the red square", ("t1",), Trust.PAINTED),),
                str(made.path),
                identity,
                clip,
            )

    def pace(self, seconds: float) -> None:
        (self.bench.folder / "training_pace").write_text(str(seconds))

    def worker(self, **more: str) -> int:
        """Starts a worker; returns its process id."""
        folders = [str(TESTS / "worker" / "no_torch"), str(TESTS.parent)]
        environment = {
            "PYTHONPATH": os.pathsep.join(folders),
            "TRAINING_PACE": str(self.bench.folder / "training_pace"),
            "TRAJSEG_FINETUNE_STEPS": str(STEPS),
            "TRAJSEG_STALE_AFTER_SECONDS": "10",
            "TRAJSEG_REPLAY_DATA": "none",
            "TRAJSEG_BASE_DATA": f"corrections:{self.work / 'corrections'}",
            **more,
        }
        return self.bench.worker(**environment).pid

    def queue(self) -> None:
        """Queues what a killed worker left, at once."""
        settings = self.bench.settings.model_copy(update={"stale_after_seconds": 0.0, "max_runs": 20})
        reconcile(self.store, self.bench.queue, settings, grace_seconds=0.0)

    def child(self) -> int:
        """The process id of the training; 0 if there is none."""
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_text().split("\0")
            except OSError:
                continue
            if "trajseg.training.child" in command and str(self.work.resolve() / "task.json") in command:
                return int(entry.name)
        return 0

    def steps(self) -> list[tuple[int, int]]:
        """(process, step) of each step that was trained."""
        try:
            lines = (self.work / "run" / "steps.txt").read_text().splitlines()
        except FileNotFoundError:
            # Deleted with the folder at the end.
            return self._steps
        self._steps = [(int(line.split()[0]), int(line.split()[1])) for line in lines if line.count(" ") == 1]
        return self._steps

    def until(self, true: Callable[[], Any]) -> Any:
        """The first true result of `true`. Meanwhile the version's folder is always complete or missing."""
        deadline = time.monotonic() + SECONDS
        while not (value := true()):
            assert time.monotonic() < deadline, self.bench.output()
            self.steps()
            self.check_folder()
            time.sleep(0.02)
        return value

    def check_folder(self) -> None:
        try:
            if self.target.exists():
                checked_files(self.target)
        except CheckpointError:
            # It may just have been replaced.
            if self.target.exists():
                checked_files(self.target)

    def state(self) -> str:
        return str(self.store.jobs.get(self.job.id).state)

    def assert_done_once(self, trained: int = STEPS) -> None:
        """One version, promoted, whole, with its decision, and nothing left over."""
        job = self.store.jobs.get(self.job.id)
        assert job.state == "done", (job.error, self.bench.output())
        [version] = self.store.versions.list()
        assert (version.state, version.folder) == ("promoted", f"models/project-{self.project.id}/1"), version.reason
        manifest, files = checked_files(self.target)
        assert manifest.decision["reason"] == version.reason
        assert f"after {trained} steps".encode() in files["config.json"]
        assert not self.work.exists()
        assert [path.name for path in self.target.parent.iterdir()] == ["1"]


@pytest.fixture
def training(bench: Bench, tiny_clip: Any) -> Training:
    return Training(bench, tiny_clip)


def paused(bench: Bench, process: int) -> None:
    """Stops a process while it does not hold the store's lock, as one that was cut off from the store."""
    while True:
        os.kill(process, signal.SIGSTOP)
        with sqlite3.connect(bench.folder / "store.db", timeout=1, isolation_level=None) as store:
            try:
                store.execute("BEGIN IMMEDIATE")
                store.execute("ROLLBACK")
                return
            except sqlite3.OperationalError:
                os.kill(process, signal.SIGCONT)


def kill(*processes: int) -> None:
    for process in processes:
        if process:
            os.kill(process, signal.SIGKILL)


def test_a_training_killed_at_any_moment_resumes_and_publishes_one_whole_version(training: Training) -> None:
    worker = training.worker()
    training.queue()
    training.until(lambda: len(training.steps()) >= 2)
    child = training.child()
    kill(worker)
    training.until(lambda: training.child() != child)

    worker = training.worker()
    training.queue()
    training.until(lambda: len(training.steps()) >= 5 and training.child())
    kill(worker, training.child())

    worker = training.worker()
    training.queue()
    training.until(lambda: len(training.steps()) >= STEPS - 1)
    training.pace(1.0)
    training.until(training.target.with_name(".1.part").exists)
    kill(worker, training.child())
    training.pace(0.2)
    assert not training.target.exists()

    worker = training.worker()
    training.queue()
    training.until(lambda: list((training.work / "run" / "answers").glob("*/*.json")))
    kill(worker, training.child())

    worker = training.worker()
    training.queue()
    training.until(lambda: training.store.versions.list()[0].state != "candidate")
    kill(worker)

    training.worker()
    training.queue()
    training.until(lambda: training.state() == "done")
    training.assert_done_once()
    steps = [step for _, step in training.steps()]
    assert sorted(set(steps)) == list(range(1, STEPS + 1))
    assert len(steps) <= STEPS + 2, "only the step at hand is trained again after a kill"


def test_a_killed_child_fails_the_job_with_the_signal_and_a_retry_resumes(training: Training) -> None:
    training.worker()
    training.queue()
    training.until(lambda: len(training.steps()) >= 3)
    kill(training.child())
    training.until(lambda: training.state() == "failed")
    job = training.store.jobs.get(training.job.id)
    assert job.error.startswith("The training ended with exit code -9")
    assert "A retry resumes from the last saved state." in job.remedy
    training.store.jobs.retry(job.id)
    training.queue()
    training.until(lambda: training.state() == "done")
    training.assert_done_once()
    assert len(training.steps()) <= STEPS + 1


def test_sigterm_saves_a_training_which_the_next_worker_resumes(training: Training) -> None:
    worker = training.worker()
    training.pace(0.5)
    training.queue()
    training.until(lambda: len(training.steps()) >= 3)
    first = training.child()
    os.kill(worker, signal.SIGTERM)
    training.until(lambda: training.bench.queue.depths()["finetune"] == 1)
    assert training.state() == "queued"
    training.pace(0.1)
    training.worker()
    training.until(lambda: training.state() == "done")
    training.assert_done_once()
    steps = training.steps()
    assert [step for _, step in steps] == list(range(1, STEPS + 1)), "nothing is trained twice"
    assert steps[0][0] == first != steps[-1][0]
    assert training.store.jobs.get(training.job.id).runs == 1, "this stop does not count as a death"


def test_of_two_workers_one_trains_and_the_other_takes_over_when_it_hangs(training: Training) -> None:
    workers = {training.worker(TRAJSEG_FINETUNE_STEPS=str(MANY_STEPS)) for _ in range(2)}
    training.until(lambda: training.bench.output().count("is loaded") == 2)
    training.pace(0.5)
    training.queue()
    training.until(lambda: len(training.steps()) >= 2)
    child = training.child()
    parent = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
    assert parent in workers
    paused(training.bench, parent)
    reconciler = Reconciler(training.store, training.bench.queue, training.bench.settings)
    reconciler.start()
    try:
        training.until(lambda: len({process for process, _ in training.steps()}) == 2)
        training.pace(0.1)
        training.until(lambda: training.state() == "done")
    finally:
        os.kill(parent, signal.SIGCONT)
    decided = training.store.versions.list()[0].decided_at
    training.until(
        lambda: re.search("has saved its state and yields|restarted by another worker", training.bench.output())
    )
    training.assert_done_once(MANY_STEPS)
    assert training.store.versions.list()[0].decided_at == decided
    steps = training.steps()
    assert [step for _, step in steps] == list(range(1, MANY_STEPS + 1)), "nothing is trained twice"
    assert [process for process, _ in steps] == sorted((p for p, _ in steps), key=lambda process: process != child)
    jobs = [training.bench.ask(f"the red square, {number}") for number in range(2)]
    labelled = [
        training.store.jobs.add(
            "prelabel", training.project.id, number, str(training.bench.video), "the red square", "prelabel"
        )[0]
        for number in range(6)
    ]
    for job in (*jobs, *labelled):
        training.bench.queue.enqueue(job)
    for job in labelled:
        done = training.bench.wait_for(job, "done")
        assert done.model_version == f"{BASE}/project-12@1"
    for job in jobs:
        assert training.bench.wait_for(job, "done").model_version == BASE
    reconciler.stop()


def test_a_database_and_a_queue_that_restart_do_not_interrupt_a_training(
    bench: Bench, tiny_clip: Any, postgres_url: str
) -> None:
    """Connections are cut and refused for some seconds, as by a restart."""
    bench.store.close()
    bench.store = Store(postgres_url)
    bench.store.migrate()
    training = Training(bench, tiny_clip)
    training.worker(DATABASE_URL=postgres_url)
    training.pace(0.5)
    training.queue()
    training.until(lambda: len(training.steps()) >= 2)
    child = training.child()
    name = str(make_url(postgres_url).database)
    other = make_url(postgres_url).set(database="postgres").render_as_string(hide_password=False)
    with psycopg.connect(other, autocommit=True) as server:
        server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        bench.valkey.stop()
        time.sleep(4)
        server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())
    bench.valkey.start()
    assert "the training goes on for now" in bench.output()
    training.pace(0.1)
    training.until(lambda: training.state() == "done")
    training.assert_done_once()
    assert {process for process, _ in training.steps()} == {child}
    assert training.store.jobs.get(training.job.id).runs == 1
