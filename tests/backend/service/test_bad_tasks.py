"""A batch with a bad task: each task is validated on its own, and the others get their jobs."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.store import Store

HALF = "half \ud83d of an emoji"


def with_odd(body: dict[str, Any], odd: Any) -> dict[str, Any]:
    body["tasks"].insert(1, odd)
    return body


GOOD = {"video": "/data/upload/7/clip.mp4", "instruction": "the red square"}


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"id": 9, "data": GOOD | {"instruction": HALF}}, "`instruction` contains a lone surrogate"),
        ({"id": 9, "data": GOOD | {"video": HALF}}, "`video` contains a lone surrogate"),
        ({"id": 9, "data": GOOD | {"video": "a\0.mp4"}}, "NUL"),
        ({"id": 9, "data": GOOD | {"video": ["a.mp4"]}}, "`video` is a list"),
        ({"id": 9, "data": GOOD | {"video": "a" * 10_000}}, "`video` has 10000 characters, 8192 are allowed"),
        ({"id": 9, "data": GOOD | {"video": 7}}, "`video` is a number"),
        ({"id": 9, "data": GOOD | {"video": {"url": "a"}}}, "`video` is an object"),
        ({"id": 9, "data": GOOD | {"instruction": ["x"]}}, "`instruction` is a list"),
        ({"id": 9, "data": {"instruction": "x"}}, "lacks `video`"),
        ({"id": 9, "data": [1]}, "data of task 9 is not"),
        ({"id": 2**63, "data": GOOD}, "9223372036854775808"),
        ({"id": -1, "data": GOOD}, "not a whole number"),
        ({"id": "nine", "data": GOOD}, "nine"),
        ({"id": HALF, "data": GOOD}, "half"),
        ("no task", "not a JSON object"),
        (None, "not a JSON object"),
    ],
)
def test_a_bad_task_fails_alone(client: FlaskClient, store: Store, predict_body: Any, odd: Any, words: str) -> None:
    answer = client.post("/predict", json=with_odd(predict_body(1, 2, 3), odd))
    assert (answer.status_code, answer.json) == (200, {"results": []})
    assert {job.task_id for job in store.jobs.newest(state="queued")} == {1, 2, 3}
    (rejected,) = store.jobs.newest(state="rejected")
    assert words in rejected.error
    assert rejected.remedy
    assert client.get("/jobs").status_code == client.get("/page/jobs").status_code == 200


@pytest.mark.parametrize("key", ["annotations", "drafts", "predictions"])
@pytest.mark.parametrize(
    "odd",
    [
        "no list",
        [7, None, "x"],
        [{"id": "text", "result": []}],
        [{"id": 2**63, "result": "no list"}],
        [{"id": 1.5, "result": {"a": 1}, "model_version": 7}],
        [{"id": 1, "result": [7, {"meta": {"job_id": HALF}}], "model_version": HALF}],
    ],
)
def test_an_odd_annotation_costs_no_task(
    client: FlaskClient, store: Store, predict_body: Any, key: str, odd: Any
) -> None:
    body = with_odd(predict_body(1, 2), {"id": 9, "data": GOOD, key: odd})
    assert client.post("/predict", json=body).status_code == 200
    assert {job.task_id for job in store.jobs.newest(state="queued")} == {1, 2, 9}


@pytest.mark.parametrize("number", [2**31, 2**63, 2**200])
def test_ids_that_no_store_holds_are_refused_everywhere(client: FlaskClient, predict_body: Any, number: int) -> None:
    body = predict_body(1) | {"project": f"{number}.1"}
    assert client.post("/predict", json=body).status_code == 400
    webhook = {"action": "ANNOTATION_CREATED", "project": {"id": number}, "annotation": {"id": number, "task": 1}}
    assert client.post("/webhook", json=webhook).status_code == 400
    # A notice's content about an annotation is ignored.
    assert client.post("/webhook", json=webhook | {"project": {"id": 7}}).status_code == 201
    assert client.get(f"/jobs?task={number}").status_code == 400
    assert client.get(f"/jobs?project={number}").status_code == 400


def test_half_of_a_character_anywhere_else_is_no_500(client: FlaskClient, predict_body: Any) -> None:
    body = predict_body(1)
    assert client.post("/predict", json=body | {"project": f"7.{HALF}"}).status_code == 400
    assert client.post("/predict", json=body | {"label_config": HALF}).status_code == 400
    setup = {"project": "7.1", "schema": body["label_config"], "hostname": HALF}
    assert client.post("/setup", json=setup).status_code == 400
    assert client.post("/predict", json=predict_body(1, typed=HALF)).status_code < 500
    assert client.post("/webhook", json={"action": HALF, "project": {"id": 7}}).status_code == 400


def test_a_task_with_a_nested_video(client: FlaskClient, store: Store, predict_body: Any) -> None:
    body = predict_body(1)
    body["label_config"] = body["label_config"].replace('value="$video"', 'value="https://host/$media.name"')
    body["tasks"][0]["data"] |= {"media": {"name": "clip.mp4"}}
    body["tasks"].append({"id": 2, "data": {"instruction": "red", "media": {}}})
    assert client.post("/predict", json=body).status_code == 200
    assert [job.video for job in store.jobs.newest(state="queued")] == ["https://host/clip.mp4"]
    assert "`media.name`" in store.jobs.newest(state="rejected")[0].error
