"""The connection to Label Studio changes while jobs, deliveries and annotations wait: another server, another token."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Response, jsonify

from backend.label_studio.incoming.reading import AnnotationReader
from backend.label_studio.outgoing import delivery as deliveries
from backend.label_studio.outgoing.courier import Courier
from backend.label_studio.outgoing.delivery import connected
from backend.label_studio.outgoing.links import renew_links
from backend.settings import Settings
from backend.store import Job, Store, TaskPictures
from backend.store.models import now
from tests.backend.label_studio.conftest import CREATED, FakeLabelStudio


class RevokingLabelStudio(FakeLabelStudio):
    """Refuses the token after so many requests."""

    left = 10_000

    def _guard(self) -> Response | None:
        self.left -= 1
        if self.left < 0:
            answer: Response = jsonify(status_code=401, detail="Invalid token.")
            answer.status_code = 401
            return answer
        return super()._guard()


@pytest.fixture
def studio() -> Iterator[RevokingLabelStudio]:
    fake = RevokingLabelStudio()
    yield fake
    fake.stop()


@pytest.fixture
def other(studio: FakeLabelStudio) -> Iterator[FakeLabelStudio]:
    """Another Label Studio, with a project and tasks under the same ids."""
    fake = FakeLabelStudio()
    yield fake
    fake.stop()


def moved(settings: Settings, studio: FakeLabelStudio, other: FakeLabelStudio) -> Settings:
    """Settings that name the other Label Studio, which has the same ids and was set up a day later."""
    other.projects, other.tasks = copy.deepcopy(studio.projects), copy.deepcopy(studio.tasks)
    for project in other.projects.values():
        project["created_at"] = CREATED.replace(day=24).isoformat()
    return settings.model_copy(update={"label_studio_url": other.url})


def test_what_waits_is_not_written_into_another_label_studios_project_with_the_same_id(
    studio: FakeLabelStudio, other: FakeLabelStudio, store: Store, settings: Settings, done: Callable[[int], list[Job]]
) -> None:
    (job,) = done(1)
    failed, _ = store.jobs.add("prelabel", job.project_id, studio.add_task(1, video="v"), "v", "i", "prelabel")
    store.runs.fail(failed.id, store.runs.start(failed.id) or "", "The link is dead.")
    elsewhere = moved(settings, studio, other)
    before = copy.deepcopy(other.tasks)
    courier = Courier(store, elsewhere)
    assert courier.round(grace_seconds=0).delivered == 0
    assert (other.predictions, other.tasks) == ({}, before)
    waiting = store.deliveries.of_job(job.id)
    assert waiting is not None
    assert waiting.state == "pending"
    assert "is not the one that trajseg knows" in waiting.last_error
    # Other projects of that Label Studio are served meanwhile.
    assert not courier.breaker.open
    store.deliveries.send_again(job.id)
    assert Courier(store, settings).round(grace_seconds=0).delivered == 1
    assert len(studio.of_task(job.task_id or 0)) == 1


def test_annotations_of_another_label_studios_project_with_the_same_id_are_not_read(
    studio: FakeLabelStudio, other: FakeLabelStudio, store: Store, settings: Settings, done: Callable[[int], list[Job]]
) -> None:
    (job,) = done(1)
    assert job.project_id
    assert job.task_id
    annotation = studio.annotate(job.task_id, [])
    assert AnnotationReader(store, settings)() == []
    elsewhere = moved(settings, studio, other)
    # There the annotation does not exist: that is no reason to withdraw it.
    other.tasks[job.task_id]["annotations"].clear()
    other.tasks[job.task_id]["updated_at"] = "2027-01-01T00:00:00Z"
    reader = AnnotationReader(store, elsewhere)
    store.unread.add(job.project_id, [job.task_id])
    reader.notice(job.project_id, configuration=True)
    other.projects[1]["label_config"] = "<View/>"
    assert reader() == []
    (known,) = store.corrections.annotations(job.project_id, job.task_id)
    assert (known.annotation_id, known.withdrawn_at) == (annotation, None)
    assert store.projects.get(job.project_id).label_config == studio.projects[1]["label_config"]


def test_links_in_another_label_studios_tasks_are_not_renewed_and_pictures_stay(
    studio: FakeLabelStudio, other: FakeLabelStudio, store: Store, settings: Settings, done: Callable[[int], list[Job]]
) -> None:
    (job,) = done(1)
    assert job.project_id
    assert job.task_id
    store.pictures.note(job.project_id, job.task_id, now())
    elsewhere = moved(settings, studio, other)
    del other.tasks[job.task_id]
    client = connected(elsewhere)
    assert renew_links(store, client, elsewhere) == 0
    client.close()
    with store.database.read() as session:
        row = session.query(TaskPictures).one()
    assert row.missing_since is None


@pytest.mark.parametrize("requests", [0, 1, 3, 5, 7, 9, 12])
def test_a_token_revoked_at_any_request_of_a_round_leaves_one_prediction_a_task_when_there_is_a_new_one(
    studio: RevokingLabelStudio,
    store: Store,
    settings: Settings,
    done: Callable[[int], list[Job]],
    requests: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deliveries, "FIRST_RETRY_SECONDS", 0.0)
    jobs = done(3)
    studio.left = requests
    courier = Courier(store, settings)
    courier.round(grace_seconds=0)
    assert courier.breaker.open
    assert "refuses the token" in courier.breaker.reason
    waiting = [store.deliveries.of_job(job.id) for job in jobs]
    assert {one.state for one in waiting if one} <= {"pending", "sent"}
    studio.left = 10_000
    for job in jobs:
        store.deliveries.send_again(job.id)
    Courier(store, settings).round(grace_seconds=0)
    assert [len(studio.of_task(job.task_id or 0)) for job in jobs] == [1, 1, 1]
    states: list[Any] = [store.deliveries.of_job(job.id) for job in jobs]
    assert [one.state for one in states] == ["sent"] * 3
