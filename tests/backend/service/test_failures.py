"""Groups by reason, over HTTP and on the jobs page: failed jobs are retried and waiting ones cancelled as a group."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.queue import JobQueue
from backend.store import Job, JobRequest, Store
from backend.store.models import now
from backend.store.reasons import pattern
from trajseg.tracks import Result

AWAY = "Label Studio does not answer at http://127.0.0.1:{}: [Errno 111] Connection refused."
Fail = Callable[..., Job]


@pytest.fixture
def fail(client: FlaskClient, store: Store, predict_body: Callable[..., dict[str, Any]]) -> Fail:
    """Requests a task's prediction and lets the job fail."""

    def failed(task: int, error: str, remedy: str = "Look there.") -> Job:
        client.post("/predict", json=predict_body(task))
        job = store.jobs.newest(task_id=task)[0]
        store.runs.fail(job.id, store.runs.start(job.id) or "", error, remedy)
        return store.jobs.get(job.id)

    return failed


@pytest.fixture
def undelivered(client: FlaskClient, store: Store, predict_body: Callable[..., dict[str, Any]], result: Result) -> Job:
    """A done job whose delivery was given up."""
    client.post("/predict", json=predict_body(50))
    job = store.jobs.newest(task_id=50)[0]
    delivery = store.runs.finish(job.id, store.runs.start(job.id) or "", result)
    assert delivery
    store.deliveries.failed(delivery.id, "The prediction does not fit the project.", None)
    return job


def test_failures_are_grouped_by_reason_whatever_number_name_or_address_differs(
    client: FlaskClient, store: Store, fail: Fail, undelivered: Job
) -> None:
    for task in range(3):
        fail(task + 1, AWAY.format(8080 + task))
    fail(9, "The video clip 1.mp4 has 4000 frames, 3600 are allowed.")
    client.post("/predict", json={**_without_video(10)})
    groups = client.get("/failures").get_json()["failures"]
    assert (groups[0]["count"], groups[0]["trouble"], groups[0]["retryable"]) == (3, "failed", True)
    assert groups[0]["error"] == AWAY.format(8082)
    assert groups[0]["same_words"] is False
    told = {one["trouble"]: one for one in groups[1:] if one["trouble"] != "failed"}
    assert told["undelivered"]["retryable"] is True
    assert told["rejected"]["retryable"] is False
    assert client.get("/failures?project=7").get_json()["failures"] == groups
    assert client.get("/failures?project=8").status_code == 404


def test_one_request_retries_all_of_one_reason_and_nothing_else(
    client: FlaskClient, bearer: dict[str, str], store: Store, queue: JobQueue, fail: Fail
) -> None:
    away = [fail(task, AWAY.format(task)) for task in range(1, 41)]
    other = fail(90, "The link is dead.")
    key = client.get("/failures").get_json()["failures"][0]["key"]
    assert client.post(f"/failures/{key}/retry", headers=bearer).json == {"key": key, "jobs": 40, "deliveries": 0}
    assert {store.jobs.get(job.id).state for job in away} == {"queued"}
    assert store.jobs.get(other.id).state == "failed"
    assert store.jobs.get(away[0].id).error == ""
    assert _soon(lambda: all(queue.holds(job.id) for job in away))
    again = client.post(f"/failures/{key}/retry", headers=bearer)
    assert (again.status_code, again.get_json()["error"]) == (400, "No job fails for this reason any more.")


def test_a_result_that_could_not_be_delivered_is_delivered_again_not_computed(
    client: FlaskClient, bearer: dict[str, str], store: Store, undelivered: Job
) -> None:
    [group] = client.get("/failures").get_json()["failures"]
    did = client.post(f"/failures/{group['key']}/retry", headers=bearer).get_json()
    assert (did["jobs"], did["deliveries"]) == (0, 1)
    assert store.jobs.get(undelivered.id).state == "done"
    delivery = store.deliveries.of_job(undelivered.id)
    assert delivery
    assert (delivery.state, delivery.attempts) == ("pending", 0)
    assert client.get("/failures").get_json()["failures"] == []


def test_a_rejected_job_is_not_retried_since_its_task_lacks_something(
    client: FlaskClient, bearer: dict[str, str], store: Store
) -> None:
    client.post("/predict", json=_without_video(1))
    [group] = client.get("/failures").get_json()["failures"]
    answer = client.post(f"/failures/{group['key']}/retry", headers=bearer)
    assert answer.status_code == 400
    assert "has no video" in answer.get_json()["error"]
    assert (store.jobs.newest()[0].state, store.jobs.newest()[0].rejection) == ("rejected", "task")
    page = client.get("/page/jobs?state=rejected").text
    assert "Why they were rejected" in page
    assert "Change the task in Label Studio." in page
    assert "formaction" not in page
    assert "has no video" not in client.get("/page/jobs?state=failed").text


@pytest.fixture
def postponed(client: FlaskClient, store: Store, predict_body: Callable[..., dict[str, Any]]) -> list[Job]:
    """Three jobs that wait for Label Studio, and one that waits for a disk."""
    reasons = [AWAY.format(task) for task in (1, 2, 3)] + ["The disk of /data is full."]
    jobs = []
    for task, reason in enumerate(reasons, start=1):
        client.post("/predict", json=predict_body(task))
        job = store.jobs.newest(task_id=task)[0]
        store.runs.put_off(job.id, store.runs.start(job.id) or "", reason, store.now() + timedelta(minutes=9))
        jobs.append(job)
    return jobs


def test_queued_jobs_that_wait_for_one_thing_are_cancelled_together(
    client: FlaskClient,
    bearer: dict[str, str],
    store: Store,
    queue: JobQueue,
    predict_body: Callable[..., dict[str, Any]],
    postponed: list[Job],
) -> None:
    client.post("/predict", json=predict_body(9))  # waits for a worker only
    answer = client.get("/failures").get_json()
    assert answer["failures"] == []
    away, full = answer["waiting"]
    assert (away["count"], away["trouble"], away["retryable"], full["count"]) == (3, "waiting", False, 1)
    assert client.post(f"/failures/{away['key']}/retry", headers=bearer).status_code == 400
    assert client.post(f"/failures/{away['key']}/cancel").status_code == 403
    done = client.post(f"/failures/{away['key']}/cancel", headers=bearer)
    assert done.get_json() == {"key": away["key"], "jobs": 3}
    assert [store.jobs.get(job.id).state for job in postponed] == ["cancelled"] * 3 + ["queued"]
    assert store.jobs.newest(task_id=9)[0].state == "queued"
    assert _soon(lambda: not any(queue.holds(job.id) for job in postponed[:3]))
    again = client.post(f"/failures/{away['key']}/cancel", headers=bearer)
    assert (again.status_code, again.get_json()["error"]) == (400, "No queued job waits for this any more.")


def test_a_group_of_failures_is_not_cancelled(client: FlaskClient, bearer: dict[str, str], fail: Fail) -> None:
    fail(1, "The link is dead.")
    [group] = client.get("/failures").get_json()["failures"]
    assert client.post(f"/failures/{group['key']}/cancel", headers=bearer).status_code == 400


def test_the_page_of_queued_jobs_says_what_they_wait_for_and_cancels_a_group_after_a_question(
    client: FlaskClient, store: Store, queue: JobQueue, postponed: list[Job]
) -> None:
    page = client.get("/page/jobs?state=queued").text
    words = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "What they wait for 3 jobs Label Studio does not answer" in words
    assert "Cancel all 3… Yes, cancel 3 jobs" in words
    action, token = (
        re.search(r'formaction="(/page/failures/[^"]+)"', page),
        re.search(r'name="token" value="(.+?)"', page),
    )
    assert action
    assert token
    assert client.post(action[1]).status_code == 403
    answer = client.post(action[1], data={"token": token[1]})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/page/jobs?state=queued")
    assert [store.jobs.get(job.id).state for job in postponed] == ["cancelled"] * 3 + ["queued"]
    assert _soon(lambda: not any(queue.holds(job.id) for job in postponed[:3]))


def test_the_page_of_failed_jobs_says_how_many_fail_for_which_reason_and_retries_them_after_a_question(
    client: FlaskClient, store: Store, fail: Fail
) -> None:
    jobs = [fail(task, AWAY.format(task), "Start `label-studio`.") for task in (1, 2, 3)]
    assert "Why they failed" not in client.get("/page/jobs").text
    page = client.get("/page/jobs?state=failed").text
    words = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "Why they failed 3 jobs Label Studio does not answer" in words
    assert "numbers and names differ" in words
    assert "Retry all 3… Yes, retry 3 jobs" in words
    action = re.search(r'formaction="(/page/failures/[^"]+)"', page)
    token = re.search(r'name="token" value="([^"]+)"', page)
    assert action
    assert token
    assert client.post(action[1]).status_code == 403
    assert {store.jobs.get(job.id).state for job in jobs} == {"failed"}
    answer = client.post(action[1], data={"token": token[1]})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/page/jobs?state=failed")
    assert {store.jobs.get(job.id).state for job in jobs} == {"queued"}
    news = client.get("/page/jobs.json?state=failed").get_json()
    assert news["parts"]["failures"]["html"].strip() == ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The video a.mp4 has 10 frames.", "The video b.webm has 2000 frames."),
        ("`/data/upload/1/a b.mp4` is gone.", "`/data/upload/22/c.mp4` is gone."),
        ("https://a.example/x?y=1 answers 404", "http://b.example/z answers 404"),
        ("Job 6483cbe0-1111-4222-8333-123456789abc is gone.", "Job 00000000-aaaa-4222-8333-123456789abc is gone."),
    ],
)
def test_a_pattern_has_no_names_in_it(one: str, other: str) -> None:
    assert pattern(one) == pattern(other)


def test_two_reasons_have_two_patterns() -> None:
    assert pattern("The link is dead.") != pattern("The link is slow.")


def test_an_error_that_quotes_a_megabyte_holds_up_no_page(client: FlaskClient, store: Store, fail: Fail) -> None:
    fail(1, f"There is no video {'a' * 2**20}.")
    began = time.thread_time()
    page = client.get("/page/jobs?state=failed")
    assert time.thread_time() - began < 1
    assert (page.status_code, len(page.text) < 100_000) == (200, True)
    assert store.jobs.newest()[0].error.endswith("a…")
    [group] = client.get("/failures").get_json()["failures"]
    assert group["error"] == store.jobs.newest()[0].error


def test_hundreds_of_waiting_jobs_are_one_group_counted_by_the_database(store_on_either: Store) -> None:
    store = store_on_either
    requests = [JobRequest("prelabel", None, number, "/v.mp4", "it", "prelabel") for number in range(400)]
    jobs = [job for job, _ in store.jobs.add_all(requests)]
    with store.database.write() as session:
        for number, job in enumerate(jobs):
            row = session.get_one(Job, job.id)
            row.waiting_for, row.waiting_since = AWAY.format(number), now()
    [group] = store.failures.waiting()
    assert (group.count, group.same_words, group.error) == (400, False, AWAY.format(399))
    assert len(store.failures.job_ids(group)) == 400
    assert store.failures.group(group.key) == group
    assert store.failures.group("waiting-0000000000000000") is None
    assert store.failures.group("cancelled-" + group.reason) is None


def _soon(holds: Callable[[], bool]) -> bool:
    """Whether a condition that a thread fulfils after the answer becomes true within two seconds."""
    for _ in range(100):
        if holds():
            return True
        time.sleep(0.02)
    return holds()


def _without_video(task: int) -> dict[str, object]:
    from label_config import fill

    return {
        "tasks": [{"id": task, "data": {"instruction": "the red square"}}],
        "project": "7.1795422572",
        "label_config": fill("mask"),
    }
