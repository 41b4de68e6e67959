"""Notices: only Label Studio's API is trusted, and forged notices do not delay real ones."""

from __future__ import annotations

import time
from base64 import b64encode
from typing import Any

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr

from backend.composition import Backend, compose
from backend.http.app import create_app
from backend.http.guesses import FREE_GUESSES
from backend.label_studio.incoming.reading import AnnotationReader
from backend.queue import JobQueue
from backend.settings import Settings
from backend.store import Store
from label_config import fill

MORE_LABELS = fill("mask", ["track-1", "smuggled"])


@pytest.fixture
def project(studio: Any, store: Store) -> int:
    """Label Studio's id of a known project."""
    number: int = studio.add_project("mask")
    store.projects.upsert(number, studio.url, studio.projects[number]["label_config"], stamp="1")
    return number


@pytest.fixture
def backend(settings: Settings, store: Store) -> Backend:
    """Its reconciler is not started."""
    return compose(settings, store, JobQueue("redis://127.0.0.1:9/0"))


@pytest.fixture
def web(backend: Backend) -> FlaskClient:
    return create_app(backend).test_client()


@pytest.fixture
def read(backend: Backend, monkeypatch: pytest.MonkeyPatch, store: Store, settings: Settings) -> AnnotationReader:
    """The reader that gets the backend's notices; its own sweep is not due."""
    reader = AnnotationReader(store, settings)
    reader._swept_at = float("inf")
    monkeypatch.setattr(backend.service.webhooks, "_on_notice", reader.notice)
    return reader


def updated(project: int, xml: str) -> dict[str, Any]:
    return {"action": "PROJECT_UPDATED", "project": {"id": project, "label_config": xml}}


def test_a_forged_labelling_configuration_changes_nothing(
    web: FlaskClient, read: AnnotationReader, studio: Any, store: Store, project: int
) -> None:
    assert web.post("/webhook", json=updated(project, MORE_LABELS)).get_json()["result"]["noted"] is True
    read()
    assert "smuggled" not in store.projects.of_label_studio(project).label_config


def test_a_changed_labelling_configuration_is_read_from_label_studio(
    web: FlaskClient, read: AnnotationReader, studio: Any, store: Store, project: int
) -> None:
    studio.projects[project]["label_config"] = MORE_LABELS
    web.post("/webhook", json=updated(project, "<View/>"))
    read()
    assert store.projects.of_label_studio(project).label_config == MORE_LABELS
    studio.projects[project]["label_config"] = "<View/>"
    web.post("/webhook", json=updated(project, MORE_LABELS))
    read()
    assert store.projects.of_label_studio(project).label_config == MORE_LABELS


def test_20_000_tasks_in_one_notice_make_no_look_ups_and_nothing_real_waits(
    web: FlaskClient, read: AnnotationReader, studio: Any, store: Store, project: int
) -> None:
    forged = [{"id": number, "task": number} for number in range(1, 20_001)]
    body = {"action": "ANNOTATIONS_CREATED", "project": {"id": project}, "annotations": forged, "annotation": forged}
    assert web.post("/webhook", json=body).status_code == 201
    task = studio.add_task(project, video="v", instruction="the red square")
    studio.annotate(task, [])
    web.post("/webhook", json={"action": "ANNOTATION_CREATED", "project": {"id": project}})
    studio.requests.clear()
    read()
    row = store.projects.of_label_studio(project)
    assert [one.task_id for one in store.corrections.annotations(row.id, task)] == [task]
    assert len(studio.requests) < 8
    assert store.unread.due() == []


def test_a_flood_of_notices_asks_label_studio_once_a_round(
    web: FlaskClient, read: AnnotationReader, studio: Any, project: int
) -> None:
    studio.requests.clear()
    for number in range(500):
        web.post(
            "/webhook", json={"action": "ANNOTATION_UPDATED", "project": {"id": project if number % 2 else number}}
        )
    assert studio.requests == []
    begun = time.monotonic()
    for _ in range(3):
        read.notice(1, True)
        read()
    assert len(studio.requests) <= 9
    assert time.monotonic() - begun > 0.5


def test_a_notice_for_an_unknown_project_asks_nobody(web: FlaskClient, read: AnnotationReader, studio: Any) -> None:
    studio.requests.clear()
    assert web.post("/webhook", json=updated(4711, MORE_LABELS)).get_json()["result"]["noted"] is False
    read()
    assert studio.requests == []


def test_a_notice_outlives_a_label_studio_that_is_down(
    web: FlaskClient, read: AnnotationReader, studio: Any, store: Store, project: int
) -> None:
    studio.projects[project]["label_config"] = MORE_LABELS
    web.post("/webhook", json=updated(project, ""))
    studio.failures = 1000
    read()
    studio.failures = 0
    read()
    assert store.projects.of_label_studio(project).label_config == MORE_LABELS


# The secret


@pytest.fixture
def secretive(settings: Settings, store: Store) -> FlaskClient:
    changed = settings.model_copy(
        update={
            "webhook_secret": SecretStr("open sesame"),
            "basic_auth_user": "studio",
            "basic_auth_password": SecretStr("battery staple"),
        }
    )
    return create_app(compose(changed, store, JobQueue("redis://127.0.0.1:9/0"))).test_client()


PASSWORD = {"Authorization": "Basic " + b64encode(b"studio:battery staple").decode()}


def test_a_notice_without_the_secret_is_refused(secretive: FlaskClient, project: int) -> None:
    notice = {"action": "ANNOTATION_CREATED", "project": {"id": project}}
    answer = secretive.post("/webhook", json=notice, headers=PASSWORD)
    assert answer.status_code == 403
    assert "TRAJSEG_WEBHOOK_SECRET" in answer.get_json()["remedy"]
    right = PASSWORD | {"X-Trajseg-Secret": "open sesame"}
    assert secretive.post("/webhook", json=notice, headers=right).status_code == 201
    # The secret does not replace the password.
    assert secretive.post("/webhook", json=notice, headers={"X-Trajseg-Secret": "open sesame"}).status_code == 401


def test_the_secret_cannot_be_guessed_quickly(secretive: FlaskClient) -> None:
    statuses = [
        secretive.post("/webhook", json={}, headers=PASSWORD | {"X-Trajseg-Secret": str(number)}).status_code
        for number in range(50)
    ]
    assert statuses.count(401) <= FREE_GUESSES + 1
    assert set(statuses) == {401, 429}


def test_the_button_start_training_needs_the_password_instead(secretive: FlaskClient, project: int) -> None:
    button = {"action": "START_TRAINING", "project": {"id": project}}
    assert secretive.post("/webhook", json=button).status_code == 401
    answer = secretive.post("/webhook", json=button, headers=PASSWORD)
    assert (answer.status_code, answer.get_json()["result"]["action"]) == (201, "START_TRAINING")
