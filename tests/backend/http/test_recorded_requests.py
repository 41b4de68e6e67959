"""Every request recorded from Label Studio 1.23.2 gets an answer that it is known to accept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.settings import Settings
from backend.store import Store

PAYLOADS = Path(__file__).parents[2] / "label_studio_payloads"
REQUESTS = sorted(path.name for path in PAYLOADS.glob("[0-9]*.json"))
ANNOTATIONS = sorted(path.name for path in PAYLOADS.glob("roundtrip*.json"))

UP = "up"
VERSION = (200, {"model_version": "trajseg-tiny"})
LATER: tuple[int, dict[str, Any]] = (200, {"results": []})
NOTHING: tuple[int, dict[str, Any]] = (200, {"results": [{"result": []}]})
NOTED = "noted"
EXPECTED: dict[str, Any] = {
    "01": UP,
    "02": VERSION,
    "03": (200, {"versions": ["trajseg-tiny"]}),
    "04": LATER,
    "05": LATER,
    "06": NOTED,
    "07": NOTED,
    "08": NOTED,
    "09": NOTED,
    "10": NOTHING,
    "11": LATER,
    "12": NOTED,
    "13": NOTED,
    "14": UP,
    "15": VERSION,
    "16": NOTHING,
    "17": NOTHING,
    "18": NOTED,
    "19": NOTHING,
    "20": NOTED,
    "21": LATER,
    "22": NOTHING,
    "23": NOTHING,
}
JOBS = {
    # Tasks without an instruction: one rejected job each, which says so.
    "04": [(9, "rejected", "prelabel")],
    "05": [(9, "rejected", "prelabel"), (10, "rejected", "prelabel")],
    "11": [(10, "rejected", "prelabel")],
    "21": [(task, "rejected", "prelabel") for task in (9, 10, 11, 12, 13)],
    # An instruction typed in the page.
    "17": [(12, "queued", "interactive")],
    "22": [(39, "queued", "interactive")],
}


def send(client: FlaskClient, recorded: dict[str, Any]) -> Any:
    body = {} if recorded["body"] is None else {"json": recorded["body"]}
    return client.open(recorded["path"], method=recorded["method"], **body)


@pytest.fixture(autouse=True)
def _no_waiting(settings: Settings) -> None:
    settings.interactive_wait_seconds = 0


def test_every_recorded_request_has_an_expected_answer() -> None:
    assert {name[:2] for name in REQUESTS} == set(EXPECTED)
    assert len(REQUESTS) == 23
    assert len(ANNOTATIONS) == 3


@pytest.mark.parametrize("name", REQUESTS)
def test_recorded_request(name: str, client: FlaskClient, store: Store) -> None:
    recorded = json.loads((PAYLOADS / name).read_text())
    answer = send(client, recorded)
    expected = EXPECTED[name[:2]]
    if expected == UP:
        assert answer.status_code == 200
        assert answer.json["status"] == "UP"
        assert answer.json["model_class"] == "TrajSeg"
    elif expected == NOTED:
        assert answer.status_code == recorded["response_status"]
        assert answer.json["status"] == "ok"
        assert answer.json["result"]["action"] == recorded["body"]["action"]
    else:
        assert (answer.status_code, answer.json) == expected
    jobs = sorted((job.task_id, job.state, job.queue) for job in store.jobs.newest())
    assert jobs == JOBS.get(name[:2], [])
    for job in store.jobs.newest(state="rejected"):
        assert "instruction" in job.error
        assert job.remedy


@pytest.mark.parametrize("name", REQUESTS)
def test_repeated_request_creates_no_second_job(name: str, client: FlaskClient, store: Store) -> None:
    recorded = json.loads((PAYLOADS / name).read_text())
    first, second = send(client, recorded), send(client, recorded)
    assert (first.status_code, first.json) == (second.status_code, second.json)
    assert len(store.jobs.newest()) == len(JOBS.get(name[:2], []))


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_recorded_annotations_pass_the_webhook(
    name: str, client: FlaskClient, payload: Callable[[str], dict[str, Any]]
) -> None:
    body = payload("07")
    (body["annotation"],) = json.loads((PAYLOADS / name).read_text())
    answer = client.post("/webhook", json=body)
    assert (answer.status_code, answer.get_json()["status"]) == (201, "ok")


def test_setup_records_the_project_but_never_its_token(
    client: FlaskClient,
    store: Store,
    payload: Callable[[str], dict[str, Any]],
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    body = payload("02")
    client.post("/setup", json=body)
    project = store.projects.of_label_studio(6, "1795422572")
    assert project.hostname == "http://127.0.0.1:8095"
    assert project.label_config == body["schema"]
    token = body["access_token"]
    assert token not in caplog.text
    for file in settings.data_dir.rglob("*"):
        assert not file.is_file() or token.encode() not in file.read_bytes()


def test_project_updated_is_recorded_and_its_body_is_not_trusted(
    client: FlaskClient, store: Store, payload: Callable[[str], dict[str, Any]]
) -> None:
    body = payload("12")
    assert client.post("/webhook", json=body).get_json()["result"]["noted"] is False
    client.post("/setup", json=payload("02"))
    assert client.post("/webhook", json=body).get_json()["result"]["noted"] is True
    assert store.projects.of_label_studio(6).label_config == payload("02")["schema"]
    assert "another" in body["project"]["label_config"]


def test_unknown_event_is_ignored(client: FlaskClient) -> None:
    answer = client.post("/webhook", json={"action": "REVIEW_CREATED", "whatever": [1]})
    assert (answer.status_code, answer.json) == (200, {"status": "Unknown event"})
