"""Hosted by the real label-studio-ml 2.x, the same recorded requests give the same answers and jobs."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import os
import re
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from flask.testing import FlaskClient
from redis import Redis

from backend.composition import Backend, compose
from backend.http.app import create_app
from backend.http.media import media_url
from backend.label_studio import png
from backend.label_studio.outgoing.courier import Courier
from backend.settings import Settings
from backend.store import Store
from tests.backend.label_studio.conftest import LEGACY, FakeLabelStudio
from trajseg.tracks import Result

PAYLOADS = Path(__file__).parent.parent / "label_studio_payloads"
REQUESTS = sorted(path.name for path in PAYLOADS.glob("[0-9]*.json"))
WHEEL = "TRAJSEG_LABEL_STUDIO_ML_WHEEL"


@pytest.fixture(scope="module")
def host_package(tmp_path_factory: pytest.TempPathFactory) -> None:
    if importlib.util.find_spec("label_studio_ml") is None:
        wheel = os.environ.get(WHEEL, "")
        if not wheel:
            pytest.skip(f"label-studio-ml 2.x is published by git only: install it, or name its wheel in {WHEEL}")
        if not Path(wheel).is_file():
            pytest.skip(f"{WHEEL} names {wheel}, which is not there")
        folder = tmp_path_factory.mktemp("label_studio_ml")
        zipfile.ZipFile(wheel).extractall(folder)
        sys.path.append(str(folder))
    for needed in ("semver", "colorama"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"label-studio-ml 2.x needs the package {needed}, which is not installed")


@pytest.fixture
def hosted(
    host_package: None, tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FlaskClient]:
    monkeypatch.setenv("TRAJSEG_DATA_DIR", str(tmp_path / "hosted"))
    monkeypatch.setenv("TRAJSEG_INTERACTIVE_WAIT_SECONDS", "0")
    monkeypatch.setenv("REDIS_URL", valkey_url)
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "hosted-cache"))
    # The host keeps its application and cache in its modules, so each test reloads them.
    for name in [name for name in sys.modules if name.split(".")[0] == "label_studio_ml"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("backend.ml_adapter._wsgi", "backend.ml_adapter.model"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    wsgi = importlib.import_module("backend.ml_adapter._wsgi")
    yield wsgi.app.test_client()
    hosted_backend().close()


@pytest.fixture
def own(tmp_path: Path, valkey_url: str) -> FlaskClient:
    with Redis.from_url(valkey_url) as connection:
        connection.flushall()
    settings = Settings(data_dir=tmp_path / "own", redis_url=valkey_url, interactive_wait_seconds=0)
    return create_app(compose(settings)).test_client()


def send(client: FlaskClient, recorded: dict[str, Any]) -> Any:
    body = {} if recorded["body"] is None else {"json": recorded["body"]}
    return client.open(recorded["path"], method=recorded["method"], **body)


def without_ids(answer: Any) -> Any:
    """The JSON of an answer; the ids of jobs, which are random, are all the same in it."""
    return json.loads(re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{8}(?=-)", "ID", answer.text))


def jobs(store: Store) -> list[tuple[object, ...]]:
    fields = ("task_id", "kind", "state", "queue", "video", "instruction", "model_version", "error", "remedy")
    return sorted(tuple(str(getattr(job, field)) for field in fields) for job in store.jobs.newest())


def hosted_backend() -> Backend:
    backend: Backend = sys.modules["backend.ml_adapter.model"].shared_backend()
    return backend


def hosted_store() -> Store:
    return hosted_backend().store


@pytest.fixture
def studio(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The Label Studio of the hosted backend: a fake with the recorded answers."""
    studio = FakeLabelStudio()
    monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", LEGACY)
    yield studio
    studio.stop()


def wait_for(condition: Callable[[], Any]) -> Any:
    for _ in range(200):
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("nothing came of it in 10 s")


def test_all_recorded_requests_one_after_the_other_get_the_same_answers_and_jobs(
    own: FlaskClient, hosted: FlaskClient
) -> None:
    assert len(REQUESTS) == 23
    for name in REQUESTS:
        recorded = json.loads((PAYLOADS / name).read_text())
        ours, theirs = send(own, recorded), send(hosted, recorded)
        assert theirs.status_code == ours.status_code, name
        if recorded["path"].startswith("/health"):
            assert theirs.json.items() <= ours.json.items(), name
        else:
            assert without_ids(theirs) == without_ids(ours), name
    own_store: Store = own.application.extensions["trajseg"].store
    assert jobs(hosted_store()) == jobs(own_store)
    assert len(own_store.jobs.newest()) == 8


def test_tasks_with_an_instruction_become_the_same_jobs(
    own: FlaskClient, hosted: FlaskClient, predict_body: Callable[..., dict[str, Any]]
) -> None:
    for body in (
        predict_body(1, 2),
        predict_body(1, 2),
        predict_body(3, typed="the star"),
        predict_body(4, view="box"),
    ):
        ours, theirs = own.post("/predict", json=body), hosted.post("/predict", json=body)
        assert (theirs.status_code, without_ids(theirs)) == (ours.status_code, without_ids(ours))
    own_store: Store = own.application.extensions["trajseg"].store
    assert jobs(hosted_store()) == jobs(own_store)
    assert len(own_store.jobs.newest()) == 4


def test_jobs_and_key_frames_are_served_beside_the_routes_of_the_host(
    hosted: FlaskClient, predict_body: Callable[..., dict[str, Any]]
) -> None:
    hosted.post("/predict", json=predict_body(1))
    (job,) = hosted.get("/jobs").get_json()["jobs"]
    assert hosted.get(f"/jobs/{job['id']}").get_json()["state"] == "queued"
    assert hosted.get("/jobs/unknown").status_code == 404
    settings = hosted_backend().settings
    picture = settings.media_dir / "job" / "000000.jpg"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"jpeg")
    assert hosted.get(urlsplit(media_url(settings, "job/000000.jpg")).path).data == b"jpeg"


def test_a_label_config_that_cannot_be_filled_is_refused_in_the_same_words(
    own: FlaskClient, hosted: FlaskClient, predict_body: Callable[..., dict[str, Any]]
) -> None:
    body = {**predict_body(1), "label_config": "<View><Text name='t' value='$t'/></View>"}
    ours, theirs = own.post("/predict", json=body), hosted.post("/predict", json=body)
    assert (ours.status_code, theirs.status_code) == (400, 400)
    assert theirs.get_json() == ours.get_json()
    own_store: Store = own.application.extensions["trajseg"].store
    assert jobs(hosted_store()) == jobs(own_store)


FORGED: list[tuple[str, Any]] = [
    ("/predict", [1, 2]),
    ("/predict", {"tasks": "x", "project": 7}),
    ("/predict", {"tasks": [], "project": None}),
    ("/predict", {"tasks": [{"id": 1}], "project": "../../etc/passwd"}),
    ("/predict", {"tasks": [], "project": "7.1", "params": {"tasks": [], "self": 1, "context": 5}}),
    ("/predict", {"tasks": [], "project": "7.1", "label_config": "<!DOCTYPE a [<!ENTITY b 'c'>]><View>&b;</View>"}),
    ("/setup", {"project": 7, "schema": ["x"]}),
    ("/setup", {"schema": "<View/>"}),
    ("/setup", {"project": "7", "schema": "<View", "extra_params": "{"}),
    ("/webhook", {}),
    ("/webhook", {"action": ["x"], "project": 3}),
    ("/webhook", {"action": "ANNOTATION_CREATED", "project": {"id": "x\0"}}),
]


@pytest.mark.parametrize(("path", "body"), FORGED)
def test_a_forged_body_gets_the_same_refusal_as_without_the_host(
    own: FlaskClient, hosted: FlaskClient, path: str, body: Any
) -> None:
    """The host answered 500, with a traceback that names files and values of this machine."""
    ours, theirs = own.post(path, json=body), hosted.post(path, json=body)
    assert (theirs.status_code, theirs.json) == (ours.status_code, ours.json)
    assert theirs.status_code < 500
    assert "Traceback" not in theirs.text


def test_a_forged_webhook_changes_no_labelling_configuration(
    hosted: FlaskClient, predict_body: Callable[..., dict[str, Any]]
) -> None:
    hosted.post("/predict", json=predict_body(1))
    before = hosted_store().projects.of_label_studio(7).label_config
    model = sys.modules["backend.ml_adapter.model"]
    forged = {"action": "ANNOTATION_UPDATED", "project": {"id": 7, "label_config": "<View><Text name='t'/></View>"}}
    assert hosted.post("/webhook", json=forged).status_code == 201
    # The host's own way, for those who make their application with `init_app(TrajSeg)`.
    model.TrajSeg("7", label_config=forged["project"]["label_config"])  # type: ignore[index]
    assert hosted_store().projects.of_label_studio(7).label_config == before


def test_a_body_that_is_too_large_is_refused_before_it_is_read(hosted: FlaskClient) -> None:
    config = hosted.application.config
    assert config["MAX_CONTENT_LENGTH"] == hosted_backend().settings.max_request_bytes
    config["MAX_CONTENT_LENGTH"] = 1000
    answer = hosted.post("/predict", data=bytes(1001), content_type="application/json")
    assert answer.status_code == 413
    assert "TRAJSEG_MAX_REQUEST_BYTES" in answer.text


def test_an_annotation_is_read_and_refined_through_the_adapter(
    studio: Any, hosted: FlaskClient, predict_body: Callable[..., dict[str, Any]], result: Result
) -> None:
    project = studio.add_project("mask")
    task = studio.add_task(project, video=result.video, instruction=result.instruction)
    body = {**predict_body(task), "project": f"{project}.1795422572"}
    assert hosted.post("/predict", json=body).status_code == 200
    store = hosted_store()
    (prelabel,) = store.jobs.newest()
    delivery = store.runs.finish(prelabel.id, store.runs.start(prelabel.id) or "", result)
    assert delivery is not None
    # Like a worker.
    assert Courier(store, hosted_backend().settings).deliver(delivery)
    (prediction,) = studio.of_task(task)
    regions = [copy.deepcopy(item) for item in prediction["result"] if item["type"] == "bitmasklabels"]
    painted = np.zeros((24, 32), bool)
    painted[10:20, 20:28] = True
    regions[1]["value"]["imageDataURL"] = png.to_url(painted)
    annotation = studio.annotate(task, regions, prediction["id"])
    event = {"action": "ANNOTATION_CREATED", "project": {"id": project, "label_config": body["label_config"]}}
    notice = {**event, "annotation": {"id": annotation, "task": task}}
    assert hosted.post("/webhook", json=notice).get_json()["result"]["noted"] is True
    (refine,) = wait_for(lambda: [job for job in store.jobs.newest() if job.kind == "refine"])
    assert (refine.task_id, refine.params["annotation_id"]) == (task, annotation)
    assert refine.params["base_job_id"] == prelabel.id
