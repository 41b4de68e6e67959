"""The OpenAPI description is correct: it has every route, and no request gets an undocumented answer."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import schemathesis
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from schemathesis.checks import load_all_checks
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import text

from backend.composition import compose
from backend.http.app import create_app
from backend.http.openapi import description
from backend.queue import JobQueue
from backend.settings import Settings
from backend.store import Store
from label_config import fill
from trajseg.files import printable
from trajseg.tracks import Result

load_all_checks()
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
QUICK = 60
"""Cases, shared among some twenty routes."""
LONG = int(os.environ.get("TRAJSEG_FUZZ_CASES", "2000"))
"""Cases on each database; `TRAJSEG_FUZZ_CASES=10000` for more."""
NOT_DESCRIBED = {"/media/{token}/{name} OPTIONS", "/static/{filename} GET"}
ODD = [
    "\0",
    "\ud83d",
    "\uffff",
    "é\u202e",
    "'; DROP TABLE jobs;--",
    "../../x",
    "%00",
    "9" * 40,
    "-1",
    "NaN",
    "a" * 9000,
    "",
]


def rules(app: Flask) -> set[str]:
    """Path and method of every route that is no page."""
    found = set()
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:[^:<>]*(?:\([^)]*\))?:)?([a-z_]+)>", r"{\1}", rule.rule)
        if not path.startswith("/page"):
            found |= {f"{path} {method}" for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}
    return found - NOT_DESCRIBED


def test_every_route_is_described_and_nothing_else(app: Flask) -> None:
    described = {f"{path} {method.upper()}" for path, one in description()["paths"].items() for method in one}
    assert described == rules(app)


def test_the_description_is_served_and_is_openapi(client: FlaskClient) -> None:
    answer = client.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.json == json.loads(json.dumps(description()))
    schemathesis.openapi.from_dict(answer.json)
    names = re.findall(r'"#/components/schemas/(\w+)"', answer.text)
    assert set(names) <= set(answer.json["components"]["schemas"])


@pytest.fixture
def filled(app: Flask, store: Store, predict_body: Callable[..., Any], result: Result) -> Flask:
    """A backend with a project, and jobs in every state."""
    return fill_store(app, store, predict_body, result)


def fill_store(app: Flask, store: Store, predict_body: Callable[..., Any], result: Result) -> Flask:
    client = app.test_client()
    client.post("/setup", json={"project": "7.1", "schema": fill("mask"), "hostname": "http://127.0.0.1:8080"})
    client.post("/predict", json=predict_body(*range(1, 9)))
    jobs = store.jobs.newest()
    for number, job in enumerate(jobs):
        if number % 4:
            token = store.runs.start(job.id) or ""
            if number % 4 == 2:
                store.runs.fail(job.id, token, "It failed.", "Try again.")
            if number % 4 == 3:
                store.runs.finish(job.id, token, result)
    return app


def fuzz(app: Flask, store: Store, token: str, cases: int) -> int:
    """Send at least so many cases; returns how many were sent. Raises at the first undocumented answer."""
    schema = schemathesis.openapi.from_dict(description())
    schema.app = app
    jobs = [job.id for job in store.jobs.newest(limit=20)]
    sent = 0
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    seeds = count(31)
    # Some routes have fewer cases than their share: others get what is left.
    while sent < cases:
        number, share = next(seeds), math.ceil((cases - sent) / len(operations))
        for operation in operations:
            # No client can send half of a character in a path.
            parts = st.sampled_from([*jobs, *(odd for odd in ODD if odd == printable(odd))])

            @seed(number)
            @hypothesis_settings(
                max_examples=share,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(
                st.one_of(
                    operation.as_strategy(), operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
                ),
                st.booleans(),
                parts,
                st.sampled_from([{}, {}, {"Authorization": f"Bearer {token}"}, {"Sec-Fetch-Site": "same-origin"}]),
            )
            def attack(case: Any, real: bool, part: str, headers: dict[str, str]) -> None:
                nonlocal sent
                sent += 1
                if real and "job_id" in (case.path_parameters or {}):
                    case.path_parameters["job_id"] = part or "x"
                answer = case.call(headers={"Host": "localhost", **headers})
                if case.operation.label != "GET /ready":
                    assert answer.status_code < 500, (case.operation.label, answer.text)
                case.validate_response(answer, checks=CHECKS, headers=headers)

            attack()
    return sent


def every_page_answers(client: FlaskClient, store: Store) -> None:
    paths = ["/page/jobs", "/page/jobs.json", "/page/report", "/page/models/", "/jobs", "/failures", "/metrics"]
    paths += [f"/page/jobs?state={state}" for state in ("queued", "running", "done", "failed", "rejected", "cancelled")]
    for job in store.jobs.newest(limit=30):
        paths += [f"/page/jobs/{job.id}", f"/page/jobs/{job.id}/news.json", f"/jobs/{job.id}"]
    for path in paths:
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.text[:500])


def test_some_fuzzed_requests_get_documented_answers(filled: Flask, store: Store, settings: Settings) -> None:
    assert fuzz(filled, store, settings.job_token(), QUICK) >= QUICK
    every_page_answers(filled.test_client(), store)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thousands_of_fuzzed_requests_get_documented_answers_on_both_databases(
    database_url: str, settings: Settings, queue: JobQueue, predict_body: Callable[..., Any], result: Result
) -> None:
    store = Store(database_url)
    store.migrate()
    app = fill_store(create_app(compose(settings, store, queue)), store, predict_body, result)
    assert fuzz(app, store, settings.job_token(), LONG) >= LONG
    every_page_answers(app.test_client(), store)
    store.close()


def test_odd_text_in_a_request_does_not_break_pages(client: FlaskClient, store: Store, predict_body: Any) -> None:
    for number, odd in enumerate(ODD):
        body = predict_body(number + 1)
        client.post("/setup", json={"project": body["project"], "schema": body["label_config"], "hostname": odd})
        for field in ("instruction", "video"):
            changed = predict_body(number + 1, **{field: odd})
            assert client.post("/predict", json=changed).status_code < 500, (field, odd)
    assert len(store.jobs.newest()) >= len(ODD)
    every_page_answers(client, store)


@pytest.mark.parametrize(
    "change",
    [
        "params = '{\"marks\": 7}'",
        "params = '[]'",
        "params = 'null'",
        "kind = 'of the future'",
        "state = 'odd'",
        "result = '{\"tracks\": 3, \"timings\": 5}', state = 'done'",
        "result = '[]', state = 'done'",
        'result = \'{"review": {}, "warnings": "x", "frame_count": "y"}\', state = \'done\'',
        "video = 'http://['",
        "frames_done = 7, frames_total = -1, state = 'running'",
    ],
)
def test_malformed_row_does_not_break_pages(change: str, client: FlaskClient, store: Store, predict_body: Any) -> None:
    client.post("/predict", json=predict_body(1, 2, 3))
    broken, *sound = store.jobs.newest()
    with store.database.write() as session:
        session.execute(text(f"UPDATE jobs SET {change} WHERE id = :id"), {"id": broken.id})
    for path in ("/page/jobs", "/page/jobs.json", "/page/report", "/jobs", "/metrics", "/failures"):
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.text[:800])
        if path in ("/page/jobs", "/jobs"):
            assert all(job.id in answer.text for job in sound), path
    for path in (f"/page/jobs/{broken.id}", f"/jobs/{broken.id}"):
        assert client.get(path).status_code < 500, path
