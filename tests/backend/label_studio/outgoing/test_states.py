"""The state column of the Data Manager, and that writing it does not flood Label Studio."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from backend.label_studio.client import LabelStudioClient
from backend.label_studio.outgoing import states
from backend.label_studio.outgoing.courier import Courier
from backend.label_studio.outgoing.states import StateWriter, state_of
from backend.settings import Settings
from backend.store import Job, Store
from backend.store.models import KnownTask, now
from backend.store.notes import JobNotes
from backend.store.tasks import JobSummary
from trajseg.tracks import Result

LATER = now() + timedelta(minutes=5)
QUEUED = JobSummary("a", "prelabel", False, "queued", 0, 0, "", "", now(), None, None, None, None, None)
RUNNING = replace(QUEUED, state="running", frames_done=47, frames_total=100)
ENDED = replace(QUEUED, state="done", finished_at=now(), visible=2, delivery_state="sent", sent_at=now())
FAILED = replace(QUEUED, state="failed", finished_at=now(), error="The link  is dead.")
TYPED: dict[str, Any] = {"typed": True, "id": "b"}
SETTLED = KnownTask(settled="prelabelled", settled_at=now() - timedelta(hours=1))


@pytest.mark.parametrize(
    ("jobs", "known", "state"),
    [
        ([], None, ""),
        ([QUEUED], None, "queued"),
        ([RUNNING], None, "running 40 %"),
        ([replace(RUNNING, frames_total=0)], None, "running"),
        ([FAILED], None, "failed: The link is dead."),
        ([replace(FAILED, state="cancelled")], None, "cancelled"),
        ([replace(FAILED, error="Not understood: x")], None, "failed: Not understood: x"),
        ([replace(FAILED, state="rejected", rejection="task", error="no video")], None, "rejected: no video"),
        ([ENDED], SETTLED, "prelabelled"),
        ([ENDED], KnownTask(settled="found nothing"), "found nothing"),
        ([replace(ENDED, delivery_state="failed", delivery_error="no room")], None, "not delivered: no room"),
        ([ENDED, replace(QUEUED, kind="refine")], SETTLED, "prelabelled; refine queued"),
        ([ENDED, replace(RUNNING, kind="refine")], SETTLED, "prelabelled; refining 40 %"),
        ([ENDED, replace(FAILED, kind="refine")], SETTLED, "prelabelled; refine failed: The link is dead."),
        ([ENDED, replace(FAILED, kind="caption")], SETTLED, "prelabelled"),
        ([ENDED, replace(QUEUED, **TYPED)], SETTLED, "prelabelled; typed: queued"),
        ([ENDED, replace(RUNNING, **TYPED)], SETTLED, "prelabelled; typed: running 40 %"),
        ([ENDED, replace(ENDED, **TYPED, visible=0)], SETTLED, "prelabelled; typed: found nothing"),
        ([ENDED, replace(ENDED, **TYPED)], SETTLED, "prelabelled; typed: ready, open the task again"),
        ([ENDED, replace(ENDED, **TYPED, sent_at=None)], SETTLED, "prelabelled"),
        (
            [replace(FAILED, **TYPED, state="rejected", rejection="instruction", error="'x' names nothing.")],
            SETTLED,
            "prelabelled; typed: not understood: 'x' names nothing.",
        ),
    ],
)
def test_what_the_column_says(jobs: list[JobSummary], known: KnownTask | None, state: str) -> None:
    assert state_of(jobs, known, LATER) == state


def test_a_failure_from_before_the_newest_result_is_forgotten() -> None:
    assert state_of([FAILED], KnownTask(settled="refined", settled_at=LATER), LATER) == "refined"


def test_an_answer_is_no_news_once_the_task_was_opened() -> None:
    known = KnownTask(settled="prelabelled", settled_at=now() - timedelta(hours=1), opened_at=LATER)
    assert state_of([replace(ENDED, **TYPED)], known, LATER) == "prelabelled"


def test_a_long_reason_is_cut() -> None:
    state = state_of([replace(FAILED, error="x" * 1000)], None, LATER)
    assert len(state) < 200
    assert state.endswith("…")


def test_a_job_requested_a_moment_ago_is_not_mentioned() -> None:
    assert state_of([replace(QUEUED, created_at=LATER)], None, LATER) == ""


Ask = Callable[..., list[Job]]


@pytest.fixture
def project(studio: Any, store: Store) -> int:
    """Label Studio's id of a project in the store."""
    number: int = studio.add_project("mask")
    store.projects.upsert(number, studio.url, studio.projects[number]["label_config"], stamp="1")
    return number


@pytest.fixture
def ask(studio: Any, store: Store, project: int, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Creates tasks and requests a prediction for each."""
    monkeypatch.setattr(states, "PATIENCE_SECONDS", 0.0)

    def asked(count: int) -> list[Job]:
        own = store.projects.of_label_studio(project).id
        tasks = [studio.add_task(project, video="v", instruction="i") for _ in range(count)]
        return [store.jobs.add("prelabel", own, task, "v", "i", "prelabel", model_version="m")[0] for task in tasks]

    return asked


@pytest.fixture
def write(store: Store, client: LabelStudioClient, settings: Settings) -> Callable[[], int]:
    writer = StateWriter(store, settings)
    return lambda: writer.write(client, writer.due(), time.monotonic() + 30)


def shown(studio: Any, jobs: list[Job]) -> set[str]:
    return {studio.tasks[job.task_id]["data"].get("trajseg_state", "") for job in jobs}


def actions(studio: Any) -> int:
    return sum(path == "/api/dm/actions" for _, path in studio.requests)


def test_300_tasks_with_one_state_are_two_requests_and_nothing_is_written_twice(
    studio: Any, ask: Ask, write: Callable[[], int]
) -> None:
    jobs = ask(300)
    assert write() == 300
    assert shown(studio, jobs) == {"queued"}
    assert actions(studio) == 2
    assert write() == 0
    assert actions(studio) == 2


def test_an_idle_round_reads_no_jobs_however_many_tasks_wait(
    studio: Any, store: Store, project: int, ask: Ask, write: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = ask(20)
    assert write() == 20
    asked: list[int] = []
    read = store.tasks.jobs

    def reading(keys: Sequence[tuple[int, int]]) -> Any:
        asked.append(len(keys))
        return read(keys)

    monkeypatch.setattr(store.tasks, "jobs", reading)
    assert write() == 0
    again = store.projects.of_label_studio(project).id
    store.jobs.add("prelabel", again, jobs[0].task_id, "v", "another instruction", "prelabel", model_version="m")
    # The column already says "queued", so the second job changes nothing.
    assert (write(), write()) == (0, 0)
    assert asked == [0, 1, 0]
    store.runs.start(jobs[1].id)
    assert write() == 1
    assert shown(studio, jobs[1:2]) == {"running"}


def test_progress_is_written_rarely(
    studio: Any, store: Store, ask: Ask, write: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    [job] = ask(1)
    token = store.runs.start(job.id) or ""
    store.runs.progress(job.id, token, 10, 100)
    assert write() == 1
    for done in range(11, 90):
        store.runs.progress(job.id, token, done, 100)
        assert write() == 0
    assert shown(studio, [job]) == {"running 10 %"}
    monkeypatch.setattr(states, "PROGRESS_SECONDS", 0.0)
    assert write() == 1
    assert shown(studio, [job]) == {"running 80 %"}
    monkeypatch.undo()
    store.runs.fail(job.id, token, "The link is dead.")
    assert write() == 1
    assert shown(studio, [job]) == {"failed: The link is dead."}


def test_a_round_makes_a_few_requests_and_the_next_round_the_others(
    studio: Any, store: Store, ask: Ask, write: Callable[[], int]
) -> None:
    jobs = ask(states.REQUESTS_A_ROUND + 3)
    for number, job in enumerate(jobs):
        store.runs.fail(job.id, store.runs.start(job.id) or "", f"Reason {number}.")
    assert write() == states.REQUESTS_A_ROUND
    assert write() == 3
    assert write() == 0


def test_a_result_on_its_way_is_reported_by_its_delivery(
    studio: Any, store: Store, settings: Settings, ask: Ask, write: Callable[[], int], result: Result
) -> None:
    [job] = ask(1)
    assert write() == 1
    store.runs.finish(job.id, store.runs.start(job.id) or "", result, JobNotes(visible=1))
    assert write() == 0
    Courier(store, settings).round(grace_seconds=0)
    data = studio.tasks[job.task_id]["data"]
    assert data["trajseg_state"] == "prelabelled"
    assert len(data["frames"]) == len(data["frame_index"]) > 0
    assert write() == 0


def test_the_courier_writes_states_and_lets_label_studio_alone_while_it_is_down(
    studio: Any, store: Store, settings: Settings, ask: Ask
) -> None:
    jobs = ask(3)
    courier = Courier(store, settings)
    courier.breaker.failed("away")
    assert courier.round().states == 0
    courier.breaker.succeeded()
    assert courier.round().states == 3
    assert shown(studio, jobs) == {"queued"}


def test_a_project_that_is_gone_is_not_tried_for_ever(
    studio: Any, store: Store, settings: Settings, ask: Ask, project: int, write: Callable[[], int]
) -> None:
    ask(2)
    del studio.projects[project]
    write()
    assert write() == 0
