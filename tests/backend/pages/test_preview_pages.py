"""Previews on the jobs page: the form, its job, and the job's page after a worker has run it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.composition import compose
from backend.http.app import create_app
from backend.queue import JobQueue
from backend.settings import Settings
from backend.store import Store

REPORT = {
    "engine": "trajseg-tiny",
    "frames": 5,
    "speed": "0.25 s per frame on this worker",
    "estimate": "about 15 minutes for 30 videos like this (3600 frames) with one worker",
    "tracks": ["track-1: a <red> square (score 0.91), in frames 1, 30"],
    "answer": "Looked for: red square.\n1. red square (0.91), frames 0 to 4: accepted.",
}


@pytest.fixture
def client(settings: Settings, store: Store, queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    monkeypatch.setenv("TRAJSEG_GROUNDED_CHOOSER", "none")
    chosen = settings.model_copy(update={"engines": ("grounded",)})
    return create_app(compose(chosen, store, queue)).test_client()


def form(client: FlaskClient, **changes: str) -> dict[str, str]:
    page = client.get("/page/jobs").text
    found = re.search(r'name="token" value="([^"]+)"', page)
    assert found
    return {"token": found[1], "video": "/data/upload/7/clip.mp4", "instruction": "the red square", **changes}


def test_the_form_makes_an_interactive_job_once(client: FlaskClient, store: Store, queue: JobQueue) -> None:
    asked = form(client, engine="grounded", videos="30")
    answer = client.post("/page/previews/", data=asked)
    [job] = store.jobs.newest()
    assert (answer.status_code, answer.location) == (303, f"/page/jobs/{job.id}")
    assert (job.kind, job.queue, job.asked.engine) == ("preview", "interactive", "grounded")
    assert job.params["videos"] == 30
    assert client.post("/page/previews/", data=asked).location == answer.location
    assert len(store.jobs.newest()) == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"engine": "os:system"}, "os:system"),
        ({"video": " "}, "no video"),
        ({"instruction": ""}, "instruction is empty"),
        ({"videos": "many"}, "many"),
        ({"project": "99"}, "no project 99"),
    ],
)
def test_a_request_that_cannot_be_is_refused_and_makes_no_job(
    client: FlaskClient, store: Store, changes: Any, named: str
) -> None:
    answer = client.post("/page/previews/", data=form(client, **changes))
    assert answer.status_code == 400
    assert named in answer.text
    assert store.jobs.newest() == []


def test_a_form_of_another_page_is_refused(client: FlaskClient, store: Store) -> None:
    assert client.post("/page/previews/", data=form(client) | {"token": "x"}).status_code == 403
    assert store.jobs.newest() == []


def test_its_page_shows_picture_words_and_estimate(client: FlaskClient, store: Store, settings: Settings) -> None:
    client.post("/page/previews/", data=form(client))
    [job] = store.jobs.newest()
    assert client.get(f"/page/previews/{job.id}.png").status_code == 404
    store.runs.finish(job.id, store.runs.start(job.id) or "", None, report=REPORT)
    page = client.get(f"/page/jobs/{job.id}").text
    assert f'src="/page/previews/{job.id}.png"' in page
    assert str(REPORT["estimate"]) in page
    assert "a &lt;red&gt; square" in page
    assert "1. red square (0.91), frames 0 to 4: accepted." in page
    picture = settings.media_dir / job.id / "preview.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"\x89PNG")
    shown = client.get(f"/page/previews/{job.id}.png")
    assert (shown.status_code, shown.mimetype, shown.data) == (200, "image/png", b"\x89PNG")
    assert client.get("/page/previews/..%2f..%2fsecret.png").status_code == 404
