"""Searching the list of jobs, and cancelling or retrying all jobs found."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.store import Job, Store
from backend.store.models import now
from backend.store.reports import Reports, Wanted


@pytest.fixture
def project(store: Store) -> int:
    return store.projects.upsert(1, "http://ls", "<View/>").id


@pytest.fixture
def jobs(store: Store, project: int) -> list[Job]:
    """Four queued jobs of two videos, tasks 11 to 14."""
    asked = [("the red car", "a.mp4"), ("the RED bus", "b.mp4"), ("100 % of it", "a.mp4"), ("a dog", "b.mp4")]
    return [
        store.jobs.add("prelabel", project, 11 + number, video, text, "prelabel")[0]
        for number, (text, video) in enumerate(asked)
    ]


def found(store: Store, text: str) -> set[int | None]:
    return {job.task_id for job in Reports(store.database).jobs(Wanted(text=text), 100, 0)}


@pytest.mark.parametrize(
    ("text", "tasks"),
    [("red", {11, 12}), ("b.mp4", {12, 14}), ("13", {13}), ("100 %", {13}), ("%", {13}), ("_", set()), ("cat", set())],
)
def test_a_search_looks_at_words_videos_and_tasks(store: Store, jobs: list[Job], text: str, tasks: set[int]) -> None:
    assert found(store, text) == tasks


def test_a_job_is_found_by_its_id_and_by_its_error(store: Store, jobs: list[Job]) -> None:
    assert found(store, jobs[2].id[:13]) == {13}
    store.runs.fail(jobs[0].id, store.runs.start(jobs[0].id) or "", "The video is gone.")
    assert found(store, "VIDEO IS GONE") == {11}


def buttons(page: str) -> dict[str, str]:
    """Form targets of the buttons for all jobs, by label."""
    links = re.findall(r'formaction="(/page/chosen/[^"]+)">([^<]+)<', page)
    return {said.strip(): address.replace("&amp;", "&") for address, said in links}


def press(client: FlaskClient, path: str, button: str) -> Any:
    page = client.get(path).text
    token = re.search(r'name="token" value="([^"]+)"', page)
    assert token
    return client.post(buttons(page)[button], data={"token": token[1]}, headers={"Accept": "application/json"})


def states(store: Store, jobs: list[Job]) -> list[str]:
    return [store.jobs.get(job.id).state for job in jobs]


def test_all_that_a_search_found_is_cancelled_after_a_question(
    client: FlaskClient, store: Store, jobs: list[Job]
) -> None:
    assert "Cancel all 4…" in client.get("/page/jobs").text
    answer = press(client, "/page/jobs?q=red", "Yes, cancel 2 jobs")
    assert answer.json == {"said": "2 jobs cancelled"}
    assert states(store, jobs) == ["cancelled", "cancelled", "queued", "queued"]
    assert "Cancel all 2…" in client.get("/page/jobs").text
    assert buttons(client.get("/page/jobs?q=red").text) == {}


def test_cancelled_jobs_are_queued_again_together(client: FlaskClient, store: Store, jobs: list[Job]) -> None:
    press(client, "/page/jobs", "Yes, cancel 4 jobs")
    answer = press(client, "/page/jobs?state=cancelled&q=a.mp4", "Yes, retry 2 jobs")
    assert answer.json == {"said": "2 jobs queued"}
    assert states(store, jobs) == ["queued", "cancelled", "queued", "cancelled"]


def test_a_running_job_is_cancelled_too_and_one_that_nobody_has_seen_is_not(
    client: FlaskClient, store: Store, project: int, jobs: list[Job]
) -> None:
    store.runs.start(jobs[0].id)
    page = client.get("/page/jobs").text
    later, _ = store.jobs.add("prelabel", project, 99, "c.mp4", "the red car", "prelabel")
    token = re.search(r'name="token" value="([^"]+)"', page)
    assert token
    answer = client.post(buttons(page)["Yes, cancel 4 jobs"], data={"token": token[1]})
    assert answer.status_code == 303
    assert states(store, [*jobs, later]) == ["cancelled"] * 4 + ["queued"]


def test_a_done_or_a_rejected_job_is_left_alone(store: Store, project: int) -> None:
    job, _ = store.jobs.add("prelabel", project, 1, "", "", "prelabel", error="no video", remedy="add one")
    assert store.selections.cancel(Wanted(), now()) == []
    assert store.selections.queue_again(Wanted(), now()) == []
    assert store.jobs.get(job.id).state == "rejected"


@pytest.mark.parametrize("query", ["until=nonsense", "until=2026-01-01T00:00:00&project=x", ""])
def test_nothing_is_done_without_a_moment_and_a_token(client: FlaskClient, jobs: list[Job], query: str) -> None:
    assert client.post(f"/page/chosen/cancel?{query}").status_code == 403
    page = client.get("/page/jobs").text
    token = re.search(r'name="token" value="([^"]+)"', page)
    assert token
    assert client.post(f"/page/chosen/cancel?{query}", data={"token": token[1]}).status_code == 400


def test_a_part_that_becomes_empty_is_news_although_another_part_is_empty_already(
    client: FlaskClient, store: Store, jobs: list[Job]
) -> None:
    def marks(answer: Any) -> str:
        return ".".join(part["mark"] for part in [*answer.json["parts"].values(), *answer.json["rows"]])

    have = marks(client.get("/page/jobs.json?q=red"))
    assert "html" not in client.get(f"/page/jobs.json?q=red&have={have}").get_json()["parts"]["bulk"]
    for job in jobs[:2]:
        store.jobs.cancel(job.id)
    bulk = client.get(f"/page/jobs.json?q=red&have={have}").get_json()["parts"]["bulk"]
    assert "button" not in bulk["html"]
