"""Which finished jobs are deleted, and which never are; on both databases."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from backend.retention import drop_finished_jobs
from backend.settings import Settings
from backend.store import Job, Store, UnknownJobError
from backend.store.models import Annotation, Correction, now
from trajseg.tracks import Result

YEAR = timedelta(days=365)


@pytest.fixture
def store(store_on_either: Store) -> Store:
    return store_on_either


@pytest.fixture
def keeping(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", job_days=30)


class Jobs:
    """Jobs of one project that ended a year ago."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.project = store.projects.upsert(7, "", "", stamp="1").id

    def add(self, task: int, instruction: str = "a") -> Job:
        return self.store.jobs.add("prelabel", self.project, task, "v", instruction, "prelabel")[0]

    def failed(self, task: int, age: timedelta = YEAR) -> str:
        job = self.add(task)
        self.store.runs.fail(job.id, self.store.runs.start(job.id) or "", "The link is dead.")
        return self.aged(job.id, age)

    def rejected(self, task: int) -> str:
        job = self.add(task)
        self.store.runs.reject(job.id, self.store.runs.start(job.id) or "", "'a' names nothing.")
        return self.aged(job.id, YEAR)

    def cancelled(self, task: int, age: timedelta = YEAR) -> str:
        return self.aged(self.store.jobs.cancel(self.add(task).id).id, age)

    def done(self, task: int, result: Result, instruction: str = "a") -> str:
        job = self.add(task, instruction)
        delivery = self.store.runs.finish(job.id, self.store.runs.start(job.id) or "", result)
        assert delivery is not None
        self.store.deliveries.sent(delivery.id, task)
        return self.aged(job.id, YEAR)

    def aged(self, job_id: str, age: timedelta) -> str:
        moment = now() - age
        with self.store.database.write() as session:
            session.execute(update(Job).where(Job.id == job_id).values(created_at=moment, finished_at=moment))
        return job_id

    def annotated(self, task: int, job_id: str) -> None:
        with self.store.database.write() as session:
            session.add(
                Annotation(
                    project_id=self.project, annotation_id=task, task_id=task, version="1", job_id=job_id, when=now()
                )
            )

    def corrected(self, task: int, job_id: str) -> None:
        with self.store.database.write() as session:
            session.add(
                Correction(
                    annotation_id=task,
                    task_id=task,
                    project_id=self.project,
                    job_id=job_id,
                    track_uid="t1",
                    label="track-1",
                    frame_index=0,
                    kind="painted",
                    when=now(),
                )
            )


@pytest.fixture
def jobs(store: Store) -> Jobs:
    return Jobs(store)


def left(store: Store) -> set[str]:
    return {job.id for job in store.jobs.newest(limit=1000)}


def test_failed_and_cancelled_jobs_go_after_their_days_with_their_pictures(
    store: Store, jobs: Jobs, keeping: Settings
) -> None:
    old = [jobs.failed(1), jobs.cancelled(2), jobs.rejected(5)]
    young = [jobs.failed(3, timedelta(days=29)), jobs.cancelled(4, timedelta(days=1))]
    for job_id in (*old, *young):
        (keeping.media_dir / job_id).mkdir(parents=True)
    assert drop_finished_jobs(store, keeping) == 3
    assert left(store) == set(young)
    assert {path.name for path in keeping.media_dir.iterdir()} == set(young)
    with pytest.raises(UnknownJobError):
        store.jobs.get(old[0])
    # Requested again, it is a new job.
    assert store.jobs.add("prelabel", jobs.project, 1, "v", "a", "prelabel")[1]


def test_by_default_no_job_goes_because_of_its_age(store: Store, jobs: Jobs, tmp_path: Path) -> None:
    kept = {jobs.failed(1), jobs.cancelled(2)}
    assert drop_finished_jobs(store, Settings(data_dir=tmp_path)) == 0
    assert left(store) == kept


def test_current_waiting_and_running_jobs_are_never_deleted(
    store: Store, jobs: Jobs, keeping: Settings, result: Result
) -> None:
    kept = {jobs.done(1, result), jobs.done(1, result, "b")}
    waiting, running = jobs.add(2), jobs.add(3)
    store.runs.start(running.id)
    for job in (waiting, running):
        with store.database.write() as session:
            session.execute(update(Job).where(Job.id == job.id).values(created_at=now() - YEAR))
    assert drop_finished_jobs(store, keeping.model_copy(update={"most_failed_jobs": 1})) == 0
    assert left(store) == {*kept, waiting.id, running.id}


def test_what_a_person_or_another_job_refers_to_is_never_deleted(
    store: Store, jobs: Jobs, keeping: Settings, result: Result
) -> None:
    corrected, annotated, refined, gone = (jobs.cancelled(task) for task in (1, 2, 3, 4))
    jobs.corrected(1, corrected)
    jobs.annotated(2, annotated)
    refine, _ = store.jobs.add(
        "refine", jobs.project, 3, "v", "a", "interactive", {"base_job_id": refined}, subject="marks"
    )
    trained = jobs.cancelled(5)
    store.versions.of_job(jobs.project, "trajseg-tiny", trained)
    assert drop_finished_jobs(store, keeping) == 1
    assert left(store) == {corrected, annotated, refined, refine.id, trained}
    assert gone not in left(store)
    assert len(store.corrections.of_annotation(jobs.project, 1)) == 1


def test_of_too_many_failed_jobs_the_oldest_go(store: Store, jobs: Jobs, keeping: Settings, result: Result) -> None:
    failed = [jobs.failed(task, timedelta(days=task)) for task in range(1, 8)]
    done = jobs.done(9, result)
    assert drop_finished_jobs(store, keeping.model_copy(update={"most_failed_jobs": 3})) == 4
    assert left(store) == {*failed[:3], done}


def test_hundreds_go_in_short_transactions_past_those_that_stay(
    store: Store, jobs: Jobs, keeping: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.store.retention.JOBS_AT_ONCE", 3)
    bases = [jobs.cancelled(task, YEAR + timedelta(days=1)) for task in range(4)]
    for task, base in enumerate(bases):
        store.jobs.add("refine", jobs.project, task, "v", "a", "interactive", {"base_job_id": base}, subject="marks")
    for task in range(10, 20):
        jobs.failed(task)
    assert drop_finished_jobs(store, keeping) == 10
    assert left(store) >= set(bases)


def test_a_deleted_task_takes_its_jobs_with_it_but_none_that_a_person_worked_on(
    store: Store, jobs: Jobs, result: Result
) -> None:
    gone = {jobs.done(1, result, "b"), jobs.failed(1)}
    store.tasks.opened(jobs.project, 1)
    worked_on = jobs.done(2, result)
    jobs.corrected(2, worked_on)
    submitted = jobs.done(3, result)
    jobs.annotated(3, submitted)
    jobs.add(4)
    assert set(store.retention.drop_task(jobs.project, 1)) == gone
    for task in (2, 3, 4):
        assert store.retention.drop_task(jobs.project, task) == []
    assert left(store) == {worked_on, submitted} | {job.id for job in store.jobs.newest(state="queued")}
    assert store.jobs.result(worked_on).tracks
    assert store.tasks.known([(jobs.project, 1)]) == {}
