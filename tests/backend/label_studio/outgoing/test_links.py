"""Links to shown frames: they expire, tasks opened months later show their pictures, and deleted tasks lose them."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Flask
from flask.testing import FlaskClient
from itsdangerous import URLSafeTimedSerializer

from backend.http.media import SALT
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.outgoing.courier import Courier
from backend.label_studio.outgoing.delivery import deliver
from backend.label_studio.outgoing.links import TASKS_AT_ONCE, renew_links
from backend.settings import Settings
from backend.store import Job, Store
from backend.store.models import TaskPictures, now
from trajseg.errors import LabelStudioError
from trajseg.tracks import Result


def shown(store: Store, studio: Any, client: LabelStudioClient, settings: Settings, result: Result) -> Job:
    """A done job whose prediction and pictures are in its task."""
    task = studio.add_task(studio.add_project("mask"), video="v", instruction="the red square")
    project = store.projects.upsert(studio.tasks[task]["project"], studio.url, "", stamp="1")
    job, _ = store.jobs.add("prelabel", project.id, task, "v", "the red square", "prelabel")
    finished = copy.deepcopy(result)
    store.runs.finish(job.id, store.runs.start(job.id) or "", finished)
    folder = settings.media_dir / job.id
    folder.mkdir(parents=True)
    for index in range(4):
        (folder / f"{index:06d}.jpg").write_bytes(b"picture %d" % index)
    delivery = store.deliveries.of_job(job.id)
    assert delivery
    assert store.deliveries.claim(delivery.id)
    assert deliver(store, client, settings, delivery) is None
    return job


@pytest.fixture
def browser(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def months_later(monkeypatch: pytest.MonkeyPatch, store: Store) -> Any:
    """Moves the clock of links and of the store's due times."""

    def move(days: float) -> None:
        original = URLSafeTimedSerializer.default_signer.get_timestamp
        monkeypatch.setattr(
            URLSafeTimedSerializer.default_signer,
            "get_timestamp",
            lambda self: original(self) + int(days * 86400),
        )
        with store.database.write() as session:
            for row in session.query(TaskPictures):
                row.due_at -= timedelta(days=days)
                row.missing_since = row.missing_since and row.missing_since - timedelta(days=days)

    return move


def opened(browser: FlaskClient, studio: Any, job: Job) -> list[int]:
    """The status codes for the task's pictures now."""
    return [browser.get(urlsplit(link).path).status_code for link in studio.tasks[job.task_id]["data"]["frames"]]


def test_a_task_that_is_opened_months_later_shows_its_pictures_and_an_old_link_does_not_work(
    browser: FlaskClient,
    store: Store,
    studio: Any,
    client: LabelStudioClient,
    settings: Settings,
    result: Result,
    months_later: Any,
) -> None:
    job = shown(store, studio, client, settings, result)
    first = list(studio.tasks[job.task_id]["data"]["frames"])
    before = copy.deepcopy(studio.tasks[job.task_id]["data"])
    for _ in range(8):
        assert set(opened(browser, studio, job)) == {200}
        months_later(16)
        assert renew_links(store, client, settings) == 1
        assert set(opened(browser, studio, job)) == {200}
    assert {browser.get(urlsplit(link).path).status_code for link in first} == {410}
    data = studio.tasks[job.task_id]["data"]
    assert {key: value for key, value in data.items() if key != "frames"} == {
        key: value for key, value in before.items() if key != "frames"
    }
    assert [link.rpartition("/")[2] for link in data["frames"]] == [link.rpartition("/")[2] for link in first]


def test_an_expired_link_that_is_opened_is_signed_again_first(
    browser: FlaskClient,
    store: Store,
    studio: Any,
    client: LabelStudioClient,
    settings: Settings,
    result: Result,
    months_later: Any,
) -> None:
    job = shown(store, studio, client, settings, result)
    months_later(40)
    store.pictures.note(job.project_id or 0, job.task_id or 0, now() + timedelta(days=10))
    assert renew_links(store, client, settings) == 0
    assert set(opened(browser, studio, job)) == {410}
    assert renew_links(store, client, settings) == 1
    assert set(opened(browser, studio, job)) == {200}


def test_the_courier_signs_links_again_only_while_label_studio_is_well(
    browser: FlaskClient,
    store: Store,
    studio: Any,
    client: LabelStudioClient,
    settings: Settings,
    result: Result,
    months_later: Any,
) -> None:
    job = shown(store, studio, client, settings, result)
    months_later(16)
    courier = Courier(store, settings)
    courier.breaker.failed("away")
    assert courier.round().renewed == 0
    courier.breaker.succeeded()
    assert courier.round().renewed == 1
    assert courier.round().renewed == 0
    assert set(opened(browser, studio, job)) == {200}


def test_links_move_with_the_backends_address_and_other_links_stay(
    store: Store, studio: Any, client: LabelStudioClient, settings: Settings, result: Result, months_later: Any
) -> None:
    job = shown(store, studio, client, settings, result)
    data = studio.tasks[job.task_id]["data"]
    foreign = ["/data/upload/1/x.jpg", "https://other.example/media/abc.def.ghi/000001.jpg"]
    data["frames"] = [*data["frames"], *foreign]
    months_later(16)
    moved = settings.model_copy(update={"public_url": "https://labels.example/trajseg"})
    assert renew_links(store, client, moved) == 1
    links = studio.tasks[job.task_id]["data"]["frames"]
    assert links[-2:] == foreign
    assert all(link.startswith("https://labels.example/trajseg/media/") for link in links[:-2])


def test_a_deleted_task_takes_its_pictures_with_it_after_a_week(
    store: Store, studio: Any, client: LabelStudioClient, settings: Settings, result: Result, months_later: Any
) -> None:
    gone = shown(store, studio, client, settings, result)
    kept = shown(store, studio, client, settings, result)
    del studio.tasks[gone.task_id]
    months_later(16)
    renew_links(store, client, settings)
    assert (settings.media_dir / gone.id).exists()
    months_later(8)
    renew_links(store, client, settings)
    assert not (settings.media_dir / gone.id).exists()
    assert (settings.media_dir / kept.id / "000000.jpg").exists()
    assert store.jobs.get(gone.id).state == "done"


def test_a_deleted_task_takes_its_jobs_with_it_where_jobs_have_a_limit(
    store: Store, studio: Any, client: LabelStudioClient, settings: Settings, result: Result, months_later: Any
) -> None:
    limited = settings.model_copy(update={"job_days": 30.0})
    gone = shown(store, studio, client, settings, result)
    kept = shown(store, studio, client, settings, result)
    del studio.tasks[gone.task_id]
    for days, pictures, job in ((16, True, True), (8, False, True), (20, False, True), (20, False, False)):
        months_later(days)
        renew_links(store, client, limited)
        assert (settings.media_dir / gone.id).exists() == pictures, days
        assert (gone.id in {one.id for one in store.jobs.newest()}) == job, days
    assert store.jobs.result(kept.id).tracks


def test_a_deleted_project_takes_the_pictures_of_its_tasks_with_it(
    store: Store, studio: Any, client: LabelStudioClient, settings: Settings, result: Result, months_later: Any
) -> None:
    job = shown(store, studio, client, settings, result)
    project = studio.tasks.pop(job.task_id)["project"]
    del studio.projects[project]
    months_later(16)
    renew_links(store, client, settings)
    months_later(8)
    renew_links(store, client, settings)
    assert not (settings.media_dir / job.id).exists()


def test_a_task_that_comes_back_within_the_week_keeps_its_pictures(
    store: Store, studio: Any, client: LabelStudioClient, settings: Settings, result: Result, months_later: Any
) -> None:
    job = shown(store, studio, client, settings, result)
    held = studio.tasks.pop(job.task_id)
    months_later(16)
    renew_links(store, client, settings)
    studio.tasks[job.task_id] = held
    months_later(3)
    assert renew_links(store, client, settings) == 1
    del studio.tasks[job.task_id]
    months_later(16)
    renew_links(store, client, settings)
    assert (settings.media_dir / job.id).exists()


def test_a_task_with_a_job_under_way_is_left_alone(
    store: Store, studio: Any, client: LabelStudioClient, settings: Settings, result: Result, months_later: Any
) -> None:
    job = shown(store, studio, client, settings, result)
    months_later(16)
    other, _ = store.jobs.add("prelabel", job.project_id, job.task_id, "v", "the blue square", "prelabel")
    assert renew_links(store, client, settings) == 0
    store.jobs.cancel(other.id)
    assert renew_links(store, client, settings) == 1


def test_a_round_is_bounded_and_a_label_studio_that_is_away_loses_nothing(
    store: Store, studio: Any, client: LabelStudioClient, settings: Settings, result: Result, months_later: Any
) -> None:
    jobs = [shown(store, studio, client, settings, result) for _ in range(TASKS_AT_ONCE + 2)]
    months_later(16)
    away = LabelStudioClient("http://127.0.0.1:9", "0" * 40, attempts=1)
    with pytest.raises(LabelStudioError):
        renew_links(store, away, settings)
    away.close()
    assert all((settings.media_dir / job.id).exists() for job in jobs)
    # The one that was tried is due again after ten minutes.
    assert renew_links(store, client, settings) == TASKS_AT_ONCE
    assert renew_links(store, client, settings) == 1


def test_a_link_that_nobody_here_signed_hurries_nothing(browser: FlaskClient, settings: Settings, store: Store) -> None:
    serializer = URLSafeTimedSerializer("another key", salt=SALT)
    assert browser.get(f"/media/{serializer.dumps('x/1.jpg')}/1.jpg").status_code == 403
