"""Choosing an engine: by the connection's extra params or by a request, among the offered ones only."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.composition import compose
from backend.engines import OfferedEngines
from backend.http.app import create_app
from backend.queue import JobQueue
from backend.settings import Settings, load_settings
from backend.store import Store
from label_config import fill
from trajseg.errors import InputError

GROUNDED = "grounded/llmdet_base+sam2.1-hiera-large+none"


@pytest.fixture
def client(settings: Settings, store: Store, queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    monkeypatch.setenv("TRAJSEG_GROUNDED_CHOOSER", "none")
    chosen = settings.model_copy(update={"engines": ("grounded",)})
    return create_app(compose(chosen, store, queue)).test_client()


def setup(extra_params: Any) -> dict[str, Any]:
    return {"project": "7.1795422572", "schema": fill("mask"), "hostname": "", "extra_params": extra_params}


@pytest.mark.parametrize("extra", [{"engine": "grounded"}, '{"engine": "grounded"}'])
def test_a_projects_jobs_run_on_the_engine_that_its_connection_names(
    client: FlaskClient, store: Store, predict_body: Any, extra: Any
) -> None:
    assert client.post("/setup", json=setup(extra)).json == {"model_version": GROUNDED}
    client.post("/predict", json=predict_body(1))
    (job,) = store.jobs.newest()
    assert (job.asked.engine, job.model_version) == ("grounded", GROUNDED)
    assert client.get(f"/jobs/{job.id}").get_json()["engine"] == "grounded"
    # What is taken out there is taken back here.
    assert client.post("/setup", json=setup(None)).json == {"model_version": "trajseg-tiny"}
    client.post("/predict", json=predict_body(1))
    assert {(one.asked.engine, one.model_version) for one in store.jobs.newest()} == {
        ("grounded", GROUNDED),
        ("", "trajseg-tiny"),
    }


def test_a_request_may_name_an_engine_for_its_tasks_alone(client: FlaskClient, store: Store, predict_body: Any) -> None:
    body = predict_body(1)
    body["params"]["engine"] = "grounded"
    client.post("/predict", json=body)
    client.post("/predict", json=predict_body(2))
    engines = {job.task_id: job.asked.engine for job in store.jobs.newest()}
    assert engines == {1: "grounded", 2: ""}


def test_an_engine_that_is_not_on_offer_is_refused_and_the_project_keeps_its_own(
    client: FlaskClient, store: Store, predict_body: Any
) -> None:
    client.post("/setup", json=setup({"engine": "grounded"}))
    refused = client.post("/setup", json=setup({"engine": "os:system"}))
    assert refused.status_code == 400
    assert "os:system" in refused.get_json()["error"]
    assert "TRAJSEG_ENGINES" in refused.get_json()["remedy"]
    assert store.projects.of_label_studio(7).engine == "grounded"
    body = predict_body(1)
    body["params"]["engine"] = "os:system"
    assert client.post("/predict", json=body).status_code == 400
    (job,) = store.jobs.newest()
    assert job.state == "rejected"
    assert "os:system" in job.error


@pytest.mark.parametrize("extra", ["grounded", 7, ["grounded"], {"engine": 3}])
def test_extra_params_of_another_form_are_refused(client: FlaskClient, extra: Any) -> None:
    answer = client.post("/setup", json=setup(extra))
    assert answer.status_code == 400
    assert "extra_params" in answer.get_json()["error"]


def test_a_training_is_of_the_projects_engine(client: FlaskClient, store: Store) -> None:
    client.post("/setup", json=setup({"engine": "grounded"}))
    client.post("/webhook", json={"action": "START_TRAINING", "project": {"id": 7}})
    (job,) = store.jobs.newest()
    assert (job.kind, job.asked.engine, job.model_version) == ("finetune", "grounded", GROUNDED)


def test_versions_lists_all_on_offer(client: FlaskClient) -> None:
    assert client.get("/versions").json == {"versions": ["trajseg-tiny", GROUNDED]}


def test_engines_with_indistinguishable_predictions_are_refused(tmp_path: Any) -> None:
    folder = tmp_path / "trajseg-tiny"
    folder.mkdir()
    with pytest.raises(InputError, match="both have the model version trajseg-tiny"):
        OfferedEngines.from_settings(load_settings(engines=(str(folder),)))


def test_a_project_can_have_its_tasks_done_by_two_engines(client: FlaskClient, store: Store, predict_body: Any) -> None:
    client.post("/setup", json=setup({"compare": "grounded"}))
    client.post("/predict", json=predict_body(1))
    [job] = store.jobs.newest()
    assert (job.asked.engine, job.params["second"], job.model_version) == ("", "grounded", "trajseg-tiny")
    # An interactive request gets one engine's answer.
    client.post("/setup", json=setup({"engine": "grounded", "compare": "trajseg-tiny"}))
    client.post("/predict", json=predict_body(2))
    [job, _] = store.jobs.newest()
    assert (job.asked.engine, job.params["second"]) == ("grounded", "trajseg-tiny")
    # With and without it are different jobs.
    client.post("/setup", json=setup(None))
    client.post("/predict", json=predict_body(1))
    assert len(store.jobs.newest()) == 3


def test_an_engine_is_not_compared_with_itself(client: FlaskClient, store: Store) -> None:
    refused = client.post("/setup", json=setup({"engine": "grounded", "compare": "grounded"}))
    assert refused.status_code == 400
    assert "compared with itself" in refused.get_json()["error"]
