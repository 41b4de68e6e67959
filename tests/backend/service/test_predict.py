"""/predict: which requests become jobs, which are answered at once, and what a waiting person sees."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import update

from backend.queue import JobQueue
from backend.service import interactive
from backend.settings import Settings
from backend.store import Store
from backend.store.models import Job, now
from trajseg.tracks import Result

FRAMES = {"frames": ["a.jpg", "b.jpg", "c.jpg"], "frame_index": [0, 2, 3]}


@pytest.fixture
def answering(store: Store, result: Result) -> Iterator[Callable[[float], None]]:
    """A substitute for a worker: runs queued jobs after so many seconds."""
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def work(seconds: float) -> None:
        while not ended.wait(0.02):
            for job in store.jobs.newest(state="queued"):
                time.sleep(seconds)
                token = store.runs.start(job.id)
                if token:
                    result.instruction = job.instruction
                    store.runs.finish(job.id, token, result)

    def begin(seconds: float) -> None:
        threads.append(threading.Thread(target=work, args=(seconds,)))
        threads[-1].start()

    yield begin
    ended.set()
    for thread in threads:
        thread.join()


def said(answer: dict[str, Any]) -> str:
    """The content of the answer's text area."""
    (text,) = [one["value"]["text"] for one in answer["result"] if one["from_name"] == "answer"]
    return " ".join(text)


def finish(store: Store, job: Job, result: Result) -> None:
    store.runs.finish(job.id, store.runs.start(job.id) or "", result)


def test_a_batch_is_written_down_and_queued_and_answered_with_nothing(
    client: FlaskClient, store: Store, queue: JobQueue, predict_body: Callable[..., dict[str, Any]]
) -> None:
    answer = client.post("/predict", json=predict_body(1, 2, 3))
    assert answer.json == {"results": []}
    jobs = store.jobs.newest(state="queued")
    assert {job.task_id for job in jobs} == {1, 2, 3}
    assert {(job.video, job.instruction, job.kind) for job in jobs} == {
        ("/data/upload/7/clip.mp4", "the red square", "prelabel")
    }
    assert {job.model_version for job in jobs} == {
        client.post("/setup", json=_setup(predict_body)).get_json()["model_version"]
    }
    assert queue.depths() == {"interactive": 0, "prelabel": 3, "finetune": 0}
    assert all(queue.holds(job.id) for job in jobs)


def _setup(predict_body: Callable[..., dict[str, Any]]) -> dict[str, str]:
    body = predict_body()
    return {"project": body["project"], "schema": body["label_config"], "hostname": "", "access_token": "x"}


def test_the_page_asking_twice_at_once_makes_one_job_queued_once(
    client: FlaskClient, store: Store, queue: JobQueue, predict_body: Callable[..., dict[str, Any]]
) -> None:
    barrier = threading.Barrier(4)
    app = client.application

    def ask() -> None:
        barrier.wait()
        app.test_client().post("/predict", json=predict_body(1))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.jobs.newest()) == 1
    assert queue.depths()["prelabel"] == 1


def test_tasks_that_lack_something_fail_visibly_and_do_not_hold_up_the_others(
    client: FlaskClient, store: Store, predict_body: Callable[..., dict[str, Any]]
) -> None:
    body = predict_body(1, 2, 3, 4)
    body["tasks"][1]["data"] = {"video": "/clip.mp4"}
    body["tasks"][2]["data"] = {"instruction": "the red square"}
    body["tasks"][3]["data"] = {"video": "/clip.mp4", "instruction": "red " * 2500}
    assert client.post("/predict", json=body).json == {"results": []}
    jobs = {job.task_id: job for job in store.jobs.newest()}
    assert jobs[1].state == "queued"
    assert {jobs[task].state for task in (2, 3, 4)} == {"rejected"}
    assert "lacks `instruction`" in jobs[2].error
    assert "lacks `video`" in jobs[3].error
    assert "9999 characters" in jobs[4].error
    assert all(jobs[task].remedy for task in (2, 3, 4))
    assert len(jobs[4].instruction) <= 1001


def test_an_unusable_label_config_is_refused_and_the_tasks_are_kept(
    client: FlaskClient, store: Store, queue: JobQueue, predict_body: Callable[..., dict[str, Any]]
) -> None:
    body = predict_body(1, 2)
    usable = body["label_config"]
    for broken in ("<View/>", "<View", "<!DOCTYPE a><View/>"):
        body["label_config"] = broken
        answer = client.post("/predict", json=body)
        assert answer.status_code == 400
        assert answer.get_json()["error"]
        assert answer.get_json()["remedy"]
    assert [job.state for job in store.jobs.newest()] == ["rejected", "rejected"]
    body["label_config"] = usable
    client.post("/predict", json=body)
    assert [job.state for job in store.jobs.newest()] == ["queued", "queued"]
    assert queue.depths()["prelabel"] == 2


def test_setup_with_an_unusable_label_config_says_so(
    client: FlaskClient, predict_body: Callable[..., dict[str, Any]]
) -> None:
    answer = client.post("/setup", json={**_setup(predict_body), "schema": "<View/>"})
    assert answer.status_code == 400
    assert "BitmaskLabels" in answer.get_json()["error"]
    assert answer.get_json()["remedy"]


def test_a_project_is_learnt_from_predict_and_unknown_without_a_label_config(
    client: FlaskClient, store: Store, predict_body: Callable[..., dict[str, Any]]
) -> None:
    body = predict_body(1)
    config = body.pop("label_config")
    answer = client.post("/predict", json=body)
    assert answer.status_code == 404
    assert "project 7" in answer.get_json()["error"]
    client.post("/predict", json={**body, "label_config": config})
    assert store.projects.of_label_studio(7).label_config == config
    assert client.post("/predict", json={**body, "tasks": predict_body(2)["tasks"]}).status_code == 200
    assert len(store.jobs.newest()) == 2


def test_a_project_of_a_new_label_studio_with_the_same_ids_gets_its_own_jobs(
    client: FlaskClient, store: Store, predict_body: Callable[..., dict[str, Any]]
) -> None:
    client.post("/predict", json=predict_body(1))
    client.post("/predict", json={**predict_body(1), "project": "7.1800000000"})
    assert len(store.jobs.newest()) == 2


def test_a_done_job_requested_again_is_delivered_again_but_not_run_again(
    client: FlaskClient, store: Store, queue: JobQueue, predict_body: Callable[..., dict[str, Any]], result: Result
) -> None:
    body = predict_body(1)
    client.post("/predict", json=body)
    (job,) = store.jobs.newest()
    finish(store, job, result)
    delivery = store.deliveries.of_job(job.id)
    assert delivery
    store.deliveries.sent(delivery.id, 5)
    body["tasks"][0]["predictions"] = [{"model_version": "trajseg-tiny", "result": []}]
    client.post("/predict", json=body)
    assert store.deliveries.due() == []
    body["tasks"][0]["predictions"] = []
    assert client.post("/predict", json=body).json == {"results": []}
    assert [due.id for due in store.deliveries.due()] == [delivery.id]
    assert store.jobs.get(job.id).state == "done"


def test_a_failed_job_requested_again_is_run_again_after_a_while_but_a_cancelled_one_is_not(
    client: FlaskClient,
    store: Store,
    queue: JobQueue,
    bearer: dict[str, str],
    predict_body: Callable[..., dict[str, Any]],
) -> None:
    body = predict_body(1, 2)
    client.post("/predict", json=body)
    failed, cancelled = sorted(store.jobs.newest(), key=lambda job: job.task_id or 0)
    store.runs.fail(failed.id, store.runs.start(failed.id) or "", "A dead link.")
    client.post(f"/jobs/{cancelled.id}/cancel", headers=bearer)
    client.post("/predict", json=body)
    assert store.jobs.get(failed.id).state == "failed"
    with store.database.write() as session:
        held = session.get(Job, failed.id)
        assert held
        held.finished_at = now() - timedelta(seconds=31)
    client.post("/predict", json=body)
    assert store.jobs.get(failed.id).state == "queued"
    assert store.jobs.get(cancelled.id).state == "cancelled"


@pytest.mark.parametrize("view", ["mask", "box"])
def test_a_typed_instruction_is_answered_on_the_frames_that_the_page_shows(
    view: str,
    client: FlaskClient,
    store: Store,
    predict_body: Callable[..., dict[str, Any]],
    answering: Callable[[float], None],
) -> None:
    answering(0.2)
    body = predict_body(1, view=view, typed="the square that moves right", **(FRAMES if view == "mask" else {}))
    (answer,) = client.post("/predict", json=body).get_json()["results"]
    assert answer["model_version"] == "trajseg-tiny"
    assert 0 < answer["score"] <= 1
    if view == "mask":
        # Frame 3 (0-based) shows nothing.
        assert [shown.get("item_index") for shown in answer["result"]] == [0, 1, None]
        assert [shown["type"] for shown in answer["result"]] == ["bitmasklabels", "bitmasklabels", "textarea"]
    else:
        assert [shown["type"] for shown in answer["result"]] == ["videorectangle", "textarea"]
    assert said(answer).startswith('Found for "the square that moves right": track-1: a red square.')
    # The page's captions and instructions are left alone.
    assert [shown["from_name"] for shown in answer["result"] if shown["type"] == "textarea"] == ["answer"]
    (job,) = store.jobs.newest()
    assert (job.queue, job.instruction) == ("interactive", "the square that moves right")
    delivery = store.deliveries.of_job(job.id)
    assert delivery
    # Whether the page was still open is unknown, so a later check finds out if the suggestions were accepted.
    assert delivery.state == "pending"
    assert timedelta(seconds=30) < delivery.next_attempt_at - now() <= timedelta(seconds=60)


def test_a_typed_instruction_that_takes_too_long_is_delivered_later(
    client: FlaskClient, store: Store, settings: Settings, predict_body: Callable[..., dict[str, Any]], result: Result
) -> None:
    settings.interactive_wait_seconds = 0.3
    begun = time.monotonic()
    answer = client.post("/predict", json=predict_body(1, typed="the square", **FRAMES))
    assert time.monotonic() - begun >= 0.3
    words = said(answer.get_json()["results"][0])
    assert words.startswith('Still running: "the square" (waiting for a worker).')
    assert "Open the task again" in words
    (job,) = store.jobs.newest()
    finish(store, job, result)
    delivery = store.deliveries.of_job(job.id)
    assert delivery
    assert delivery.state == "pending"
    assert len(store.deliveries.due(now() + timedelta(seconds=10))) == 1


def test_nobody_waits_where_the_page_has_no_key_frames_yet(
    client: FlaskClient, store: Store, predict_body: Callable[..., dict[str, Any]], result: Result
) -> None:
    begun = time.monotonic()
    answer = client.post("/predict", json=predict_body(1, typed="the square"))
    assert time.monotonic() - begun < 2
    assert said(answer.get_json()["results"][0]).startswith("Still running:")
    (job,) = store.jobs.newest(state="queued")
    finish(store, job, result)
    assert len(store.deliveries.due()) == 1


def test_nobody_waits_for_a_job_that_fails_or_when_all_waiting_places_are_taken(
    client: FlaskClient, store: Store, predict_body: Callable[..., dict[str, Any]]
) -> None:
    service = client.application.extensions["trajseg"]
    places = 0
    while service.interactive.waiting.acquire(blocking=False):
        places += 1
    begun = time.monotonic()
    (answer,) = client.post("/predict", json=predict_body(1, typed="a", **FRAMES)).get_json()["results"]
    assert said(answer).startswith("Still running:")
    for _ in range(places):
        service.interactive.waiting.release()
    (job,) = store.jobs.newest()

    def fail() -> None:
        time.sleep(0.2)
        store.runs.fail(job.id, store.runs.start(job.id) or "", "broken")

    thread = threading.Thread(target=fail)
    thread.start()
    (answer,) = client.post("/predict", json=predict_body(1, typed="a", **FRAMES)).get_json()["results"]
    assert said(answer) == 'Failed: "a". broken'
    thread.join()
    assert time.monotonic() - begun < 4


def test_the_same_words_typed_again_are_answered_from_the_store(
    client: FlaskClient, store: Store, settings: Settings, predict_body: Callable[..., dict[str, Any]], result: Result
) -> None:
    settings.interactive_wait_seconds = 0
    body = predict_body(1, typed="the square", **FRAMES)
    client.post("/predict", json=body)
    finish(store, store.jobs.newest()[0], result)
    (answer,) = client.post("/predict", json=body).get_json()["results"]
    assert [shown["type"] for shown in answer["result"]] == ["bitmasklabels", "bitmasklabels", "textarea"]
    assert len(store.jobs.newest()) == 1


@pytest.mark.parametrize(
    "changed",
    [
        # Later the engine may be a newer one that understands it; what a task lacked may be there by now.
        pytest.param({"finished_at": now() - timedelta(hours=1)}, id="an hour ago"),
        pytest.param({"rejection": "task"}, id="the task lacked something"),
    ],
)
def test_an_instruction_that_was_just_not_understood_is_answered_from_the_store(
    changed: dict[str, Any],
    client: FlaskClient,
    store: Store,
    settings: Settings,
    predict_body: Callable[..., dict[str, Any]],
) -> None:
    settings.interactive_wait_seconds = 0
    body = predict_body(1, typed="where is it?", **FRAMES)
    client.post("/predict", json=body)
    [job] = store.jobs.newest()
    store.runs.reject(job.id, store.runs.start(job.id) or "", "It is a question.", "Name an object.")
    (answer,) = client.post("/predict", json=body).get_json()["results"]
    assert said(answer) == 'Not understood: "where is it?". It is a question. Name an object.'
    with store.database.write() as session:
        session.execute(update(Job).values(**changed))
    (answer,) = client.post("/predict", json=body).get_json()["results"]
    assert said(answer).startswith("Still running:")
    assert [one.state for one in store.jobs.newest()] == ["queued"]


def test_a_sentence_without_a_match_is_distinguished_from_one_that_is_not_understood(
    client: FlaskClient, store: Store, settings: Settings, predict_body: Callable[..., dict[str, Any]], result: Result
) -> None:
    settings.interactive_wait_seconds = 0
    body = predict_body(1, typed="the green square", **FRAMES)
    context = body["params"]["context"]["result"][0]
    context["value"]["text"] = ["the red square", "the green square"]
    client.post("/predict", json=body)
    result.tracks, result.answer = [], "There is no such object [SEG] ."
    finish(store, store.jobs.newest()[0], result)
    (answer,) = client.post("/predict", json=body).get_json()["results"]
    assert said(answer) == 'Nothing there for "the green square". The model says: "There is no such object."'
    assert [one["value"]["text"] for one in answer["result"] if one["from_name"] == "instruction"] == [
        ["the red square"]
    ]


def test_a_sentence_that_the_engine_refuses_is_said_to_be_not_understood(
    client: FlaskClient, store: Store, predict_body: Callable[..., dict[str, Any]]
) -> None:
    def refuse() -> None:
        while not store.jobs.newest(state="queued"):
            time.sleep(0.02)
        (job,) = store.jobs.newest()
        store.runs.reject(job.id, store.runs.start(job.id) or "", "'the' names nothing.", "Name an object.")

    thread = threading.Thread(target=refuse)
    thread.start()
    (answer,) = client.post("/predict", json=predict_body(1, typed="the", **FRAMES)).get_json()["results"]
    thread.join()
    assert said(answer) == "Not understood: \"the\". 'the' names nothing. Name an object."


def test_the_wait_is_short_if_such_sentences_usually_take_longer(
    client: FlaskClient,
    store: Store,
    settings: Settings,
    predict_body: Callable[..., dict[str, Any]],
    result: Result,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(interactive, "GLANCE_SECONDS", 0.2)
    settings.interactive_wait_seconds = 30
    client.post("/predict", json=predict_body(2))
    finish(store, store.jobs.newest()[0], result)
    with store.database.write() as session:
        session.execute(update(Job).values(started_at=now() - timedelta(seconds=70)))
    begun = time.monotonic()
    (answer,) = client.post("/predict", json=predict_body(1, typed="the square", **FRAMES)).get_json()["results"]
    assert time.monotonic() - begun < 3
    assert "about 70 s" in said(answer)


def test_typing_the_words_of_a_waiting_task_moves_it_to_the_front(
    client: FlaskClient, store: Store, settings: Settings, queue: JobQueue, predict_body: Callable[..., dict[str, Any]]
) -> None:
    settings.interactive_wait_seconds = 0
    client.post("/predict", json=predict_body(1))
    client.post("/predict", json=predict_body(1, typed="the red square", **FRAMES))
    assert len(store.jobs.newest()) == 1
    assert queue.depths() == {"interactive": 1, "prelabel": 0, "finetune": 0}


def test_a_typed_instruction_too_long_is_refused_and_kept(
    client: FlaskClient, store: Store, predict_body: Callable[..., dict[str, Any]]
) -> None:
    answer = client.post("/predict", json=predict_body(1, typed="x" * 10_000, **FRAMES))
    words = said(answer.get_json()["results"][0])
    assert words.startswith('Not understood: "xxxx')
    assert "10000 characters" in words
    (job,) = store.jobs.newest()
    assert (job.state, job.rejection) == ("rejected", "instruction")
    assert "10000 characters" in job.error


@pytest.mark.parametrize(
    "context",
    [
        {"result": []},
        {"result": None},
        {"result": [{"type": "rectanglelabels", "from_name": "hint", "value": {"x": 1}}]},
        {"result": [{"type": "textarea", "from_name": "caption", "value": {"text": ["a caption"]}}]},
        {"result": [{"type": "textarea", "from_name": "instruction", "value": {"text": ["  "]}}]},
        {"result": [{"type": "textarea", "from_name": "instruction", "value": {}}]},
    ],
)
def test_contexts_without_an_instruction_store_nothing(
    context: dict[str, object], client: FlaskClient, store: Store, predict_body: Callable[..., dict[str, Any]]
) -> None:
    body = predict_body(1)
    body["params"]["context"] = context
    assert client.post("/predict", json=body).json == {"results": [{"result": []}]}
    assert store.jobs.newest() == []


def test_typed_objects_get_labels_that_nothing_in_the_task_has(
    client: FlaskClient, store: Store, settings: Settings, predict_body: Callable[..., dict[str, Any]], result: Result
) -> None:
    settings.interactive_wait_seconds = 0
    body = predict_body(1, typed="the square", **FRAMES)
    client.post("/predict", json=body)
    (job,) = store.jobs.newest()
    finish(store, job, result)

    def labels() -> set[str]:
        (answer,) = client.post("/predict", json=body).get_json()["results"]
        return {label for shown in answer["result"] for label in shown["value"].get("bitmasklabels", ())}

    def region(label: str, job_id: str = "another") -> dict[str, object]:
        return {"type": "bitmasklabels", "value": {"bitmasklabels": [label]}, "meta": {"job_id": job_id}}

    (task,) = body["tasks"]
    assert labels() == {"track-1"}
    task["predictions"] = [{"result": [region("track-1")], "model_version": "trajseg-tiny"}]
    assert labels() == {"track-2"}
    task["drafts"] = [{"result": [region("track-2"), {"type": "textarea", "value": {"text": ["x"]}}]}]
    task["annotations"] = [{"result": None}]
    assert labels() == {"track-3"}
    task["drafts"] = [{"result": [region("track-2", job.id)]}]
    assert labels() == {"track-2"}
    task["predictions"] = [{"result": [region(f"track-{number}") for number in range(1, 9)]}]
    task["drafts"] = [{"result": [region("track-1")]}]
    assert labels() == {"track-2"}
