"""Jobs over HTTP: progress, reason of failure and remedy, cancel and retry."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from flask.testing import FlaskClient

from backend.queue import JobQueue
from backend.store import Store
from backend.store.models import Job, now
from trajseg.tracks import Result


def asked(client: FlaskClient, store: Store, predict_body: Callable[..., dict[str, Any]]) -> Job:
    client.post("/predict", json=predict_body(1))
    return store.jobs.newest()[0]


def test_job_has_state_progress_and_eta(
    client: FlaskClient, store: Store, predict_body: Callable[..., dict[str, Any]], result: Result
) -> None:
    job = asked(client, store, predict_body)
    assert client.get(f"/jobs/{job.id}").get_json()["state"] == "queued"
    token = store.runs.start(job.id) or ""
    store.runs.progress(job.id, token, 1, 4)
    form = client.get(f"/jobs/{job.id}").get_json()
    assert form["state"] == "running"
    assert form["progress"] == {"frames_done": 1, "frames_total": 4, "percent": 25.0}
    assert form["eta_seconds"] >= 0
    assert form["lost"] is False
    assert client.get(f"/jobs/{job.id}/result").status_code == 400
    store.runs.finish(job.id, token, result)
    form = client.get(f"/jobs/{job.id}").get_json()
    assert (form["state"], form["tracks"], form["timings"]) == ("done", 1, {"masks": 0.5})
    assert form["delivery"]["state"] == "pending"
    assert client.get(f"/jobs/{job.id}/result").json == result.to_json()


def test_run_without_heartbeat_is_shown_as_lost(
    client: FlaskClient, store: Store, predict_body: Callable[..., dict[str, Any]]
) -> None:
    job = asked(client, store, predict_body)
    store.runs.start(job.id)
    with store.database.write() as session:
        held = session.get(Job, job.id)
        assert held
        held.heartbeat_at = now() - timedelta(seconds=500)
    assert client.get(f"/jobs/{job.id}").get_json()["lost"] is True


def test_a_failure_is_shown_with_its_remedy_and_can_be_retried(
    client: FlaskClient,
    store: Store,
    queue: JobQueue,
    bearer: dict[str, str],
    predict_body: Callable[..., dict[str, Any]],
) -> None:
    job = asked(client, store, predict_body)
    store.runs.fail(job.id, store.runs.start(job.id) or "", "The link is dead.", "Upload the video.")
    form = client.get(f"/jobs/{job.id}").get_json()
    assert (form["state"], form["error"], form["remedy"]) == (
        "failed",
        "The link is dead.",
        "Upload the video.",
    )
    form = client.post(f"/jobs/{job.id}/retry", headers=bearer).get_json()
    assert (form["state"], form["error"]) == ("queued", "")
    assert queue.holds(job.id)


def test_a_task_that_lacks_something_cannot_be_retried_into_a_worker(
    client: FlaskClient, store: Store, bearer: dict[str, str], predict_body: Callable[..., dict[str, Any]]
) -> None:
    client.post("/predict", json=predict_body(1, instruction=""))
    (job,) = store.jobs.newest()
    answer = client.post(f"/jobs/{job.id}/retry", headers=bearer)
    assert answer.status_code == 400
    assert "lacks `instruction`" in answer.get_json()["error"]


def test_cancel_removes_a_waiting_job_from_the_queue(
    client: FlaskClient,
    store: Store,
    queue: JobQueue,
    bearer: dict[str, str],
    predict_body: Callable[..., dict[str, Any]],
) -> None:
    job = asked(client, store, predict_body)
    assert client.post(f"/jobs/{job.id}/cancel", headers=bearer).get_json()["state"] == "cancelled"
    assert queue.depths()["prelabel"] == 0
    assert store.runs.start(job.id) is None
    assert client.post(f"/jobs/{job.id}/cancel", headers=bearer).get_json()["state"] == "cancelled"


def test_retry_of_a_done_job_whose_delivery_failed_only_delivers_again(
    client: FlaskClient,
    store: Store,
    bearer: dict[str, str],
    predict_body: Callable[..., dict[str, Any]],
    result: Result,
) -> None:
    job = asked(client, store, predict_body)
    delivery = store.runs.finish(job.id, store.runs.start(job.id) or "", result)
    assert delivery
    store.deliveries.failed(delivery.id, "The task is gone.", None)
    assert client.get(f"/jobs/{job.id}").get_json()["delivery"]["last_error"] == "The task is gone."
    form = client.post(f"/jobs/{job.id}/retry", headers=bearer).get_json()
    assert (form["state"], form["delivery"]["state"]) == ("done", "pending")


def test_jobs_are_listed_and_filtered(
    client: FlaskClient, store: Store, predict_body: Callable[..., dict[str, Any]]
) -> None:
    client.post("/predict", json=predict_body(1, 2))
    client.post("/predict", json=predict_body(3, instruction=""))
    listed = client.get("/jobs").get_json()
    assert len(listed["jobs"]) == 3
    assert listed["queue"]["queued"] == 2
    assert [job["task"] for job in client.get("/jobs?state=rejected").get_json()["jobs"]] == [3]
    assert len(client.get("/jobs?task=2").get_json()["jobs"]) == 1
    assert len(client.get("/jobs?project=7&limit=2").get_json()["jobs"]) == 2
    assert client.get("/jobs?project=8").status_code == 404
    assert client.get("/jobs?state=odd").status_code == 400
    assert client.get("/jobs?limit=x").status_code == 400


def test_unknown_jobs_are_reported(client: FlaskClient, bearer: dict[str, str]) -> None:
    for answer in (
        client.get("/jobs/x"),
        client.post("/jobs/x/cancel", headers=bearer),
        client.post("/jobs/x/retry", headers=bearer),
    ):
        assert answer.status_code == 404
        assert "x" in answer.get_json()["error"]


def test_metrics_count_jobs_queues_and_answers(
    client: FlaskClient, store: Store, predict_body: Callable[..., dict[str, Any]], result: Result
) -> None:
    client.post("/predict", json=predict_body(1, 2))
    store.runs.finish(store.jobs.newest()[0].id, store.runs.start(store.jobs.newest()[0].id) or "", result)
    client.post("/webhook", json={"action": "START_TRAINING"})
    client.post("/webhook", json={"action": "MADE_UP_BY_A_STRANGER"})
    text = client.get("/metrics").text
    assert 'trajseg_jobs{kind="prelabel",state="queued"} 1.0' in text
    assert 'trajseg_deliveries{state="pending"} 1.0' in text
    assert 'trajseg_queue_depth{queue="prelabel"} 2.0' in text
    assert 'trajseg_webhooks_total{action="START_TRAINING"} 1.0' in text
    assert 'trajseg_request_seconds_count{route="/predict",status="200"} 1.0' in text
    assert "STRANGER" not in text
