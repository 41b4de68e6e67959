"""/metrics, and that dashboard and documentation use its metrics."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from backend.composition import compose
from backend.http.app import create_app
from backend.logs import JsonFormatter, log_to_stderr, logged_job
from backend.queue import JobQueue
from backend.settings import Settings
from backend.store import Job, Store
from trajseg.tracks import Result
from worker.figures import StageTally, gpu_memory

ROOT = Path(__file__).parents[3]
DASHBOARD = ROOT / "deploy" / "grafana" / "trajseg.json"


def samples(client: FlaskClient, name: str) -> dict[tuple[str, ...], float]:
    """The samples of a metric by the values of their labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {tuple(one.labels.values()): one.value for family in families for one in family.samples if one.name == name}


def exposed(client: FlaskClient) -> set[str]:
    """The names of samples that /metrics may have, also of metrics without a sample at the moment."""
    names: set[str] = set()
    for family in text_string_to_metric_families(client.get("/metrics").text):
        names |= {sample.name for sample in family.samples}
        names.add(f"{family.name}_total" if family.type == "counter" else family.name)
        if family.type == "histogram":
            names |= {f"{family.name}_{part}" for part in ("bucket", "count", "sum")}
    return {name for name in names if name.startswith("trajseg_") and not name.endswith("_created")}


def queries() -> list[str]:
    board = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]] + [
        variable["query"] for variable in board["templating"]["list"] if variable["type"] == "query"
    ]


def test_dashboard_queries_use_existing_metrics(client: FlaskClient) -> None:
    client.get("/health")
    there = exposed(client)
    for query in queries():
        named = set(re.findall(r"trajseg_[a-z_]+", query))
        assert named, query
        assert named <= there, f"{query}: {named - there}"


def test_the_documentation_lists_every_metric(client: FlaskClient) -> None:
    client.get("/health")
    text = (ROOT / "docs" / "operations.md").read_text()
    listed = set(re.findall(r"trajseg_[a-z_]+", text))
    histogram = ("_bucket", "_count", "_sum")
    assert {name for name in exposed(client) if not name.endswith(histogram)} - listed == set()
    assert {name for name in listed if name not in exposed(client)} == set()


def test_failed_and_waiting_jobs_are_counted_by_reason(
    client: FlaskClient, store: Store, predict_body: Callable[..., dict[str, Any]]
) -> None:
    client.post("/predict", json=predict_body(1, 2, 3, 4))
    first, second, third, _ = store.jobs.newest()
    for job in (first, second):
        store.runs.fail(job.id, store.runs.start(job.id) or "", f"The video /data/{job.id}.mp4 is empty.")
    token = store.runs.start(third.id) or ""
    store.runs.put_off(third.id, token, "Label Studio is away.", store.now() + timedelta(hours=1))
    assert list(samples(client, "trajseg_jobs_failed").values()) == [2]
    assert samples(client, "trajseg_jobs_held") == {("Label Studio is away.",): 1}
    assert samples(client, "trajseg_jobs")["prelabel", "queued"] == 2


def test_ages_are_those_of_the_oldest_waiting_item(
    client: FlaskClient, store: Store, predict_body: Callable[..., dict[str, Any]], result: Result
) -> None:
    assert set(samples(client, "trajseg_queue_age_seconds").values()) == {0.0}
    client.post("/predict", json=predict_body(1, 2))
    old, done = store.jobs.newest()
    with store.database.write() as session:
        held = session.get(Job, old.id)
        assert held
        held.created_at -= timedelta(seconds=100)
    delivery = store.runs.finish(done.id, store.runs.start(done.id) or "", result)
    assert delivery is not None
    assert samples(client, "trajseg_queue_age_seconds")[("prelabel",)] == pytest.approx(100, abs=10)
    assert 0 <= samples(client, "trajseg_delivery_age_seconds")[()] < 10
    store.deliveries.sent(delivery.id, 1)
    assert samples(client, "trajseg_delivery_age_seconds")[()] == 0


def test_workers_report_seconds_by_stage_and_gpu_memory(client: FlaskClient, queue: JobQueue) -> None:
    tally = StageTally()
    tally.add("prelabel", {"fetch": 0.5, "open": 1.0})
    tally.add("prelabel", {"fetch": 1.5, "draw all": 3.0})
    taken = tally.take()
    tally.put_back(taken)
    queue.beat("a", tally.take(), (3, 8))
    queue.beat("b")
    # Garbage in Redis does not break the metrics.
    queue.connection.hset("trajseg:figures", mapping={"odd": "1", "prelabel seconds draw": "much"})
    queue.connection.set("trajseg:gpu:b", "a lot")
    assert tally.take() == {}
    stages = {"fetch": 2.0, "open": 1.0, "draw all": 3.0}
    assert samples(client, "trajseg_stage_seconds_total") == {("prelabel", name): held for name, held in stages.items()}
    assert samples(client, "trajseg_stage_runs_total")["prelabel", "fetch"] == 2
    assert samples(client, "trajseg_gpu_bytes") == {("used", "a"): 3, ("total", "a"): 8}
    assert samples(client, "trajseg_workers")[()] == 2


def test_a_machine_without_a_gpu_has_no_gpu_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(__import__("sys").modules, "torch", raising=False)
    assert gpu_memory() is None


def test_failed_rounds_of_loops_are_counted(settings: Settings, store: Store, queue: JobQueue) -> None:
    backend = compose(settings, store, queue)
    backend.reconciler.troubled = 3
    client = create_app(backend).test_client()
    problems = samples(client, "trajseg_problems_total")
    assert problems[("jobs",)] == 3
    assert {loop for (loop,) in problems} >= {"jobs", "reconciler", "deliveries", "annotations"}


def line(settings: Settings, message: str, *arguments: object, error: Exception | None = None) -> dict[str, Any]:
    info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("trajseg.worker", logging.WARNING, __file__, 1, message, arguments, info)
    told: dict[str, Any] = json.loads(JsonFormatter(settings).format(record))
    return told


def test_json_log_lines_name_their_job(settings: Settings) -> None:
    job, other = "0b6ba8c8-5f0a-4c3f-9a34-6f2f4c1f3c11", "1b6ba8c8-5f0a-4c3f-9a34-6f2f4c1f3c12"
    assert "job" not in line(settings, "loading %s", "trajseg-tiny")
    with logged_job(job):
        assert line(settings, "two\nlines")["job"] == job
        assert line(settings, "job %s was delivered", other)["job"] == other
    told = line(settings, "job %s failed", job, error=ValueError("odd"))
    assert (told["level"], told["logger"], told["job"]) == ("WARNING", "trajseg.worker", job)
    assert told["traceback"].endswith("ValueError: odd")
    assert told["time"].endswith("+00:00")


def test_json_log_lines_contain_no_secret(settings: Settings) -> None:
    guarded = settings.model_copy(update={"redis_url": "redis://:a-secret-word@127.0.0.1/0"})
    error = RuntimeError("a-secret-word")
    assert "a-secret-word" not in json.dumps(line(guarded, "asked with %s", "a-secret-word", error=error))


def test_log_format_setting(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    log_to_stderr(settings.model_copy(update={"log_format": "json"}), "%(message)s", logging.INFO)
    assert isinstance(root.handlers[0].formatter, JsonFormatter)
