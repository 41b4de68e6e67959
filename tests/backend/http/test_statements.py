"""The cost of /predict in SQL statements and commits, on both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import event

from backend.composition import compose
from backend.http.app import create_app
from backend.queue import JobQueue
from backend.settings import Settings
from backend.store import Store


@dataclass
class Cost:
    """Commits, and SQL statements without those that begin and end transactions."""

    statements: list[str] = field(default_factory=list)
    commits: int = 0


@pytest.fixture
def store(store_on_either: Store) -> Store:
    return store_on_either


@pytest.fixture
def client(settings: Settings, store: Store, queue: JobQueue) -> FlaskClient:
    return create_app(compose(settings, store, queue)).test_client()


@contextmanager
def counted(store: Store) -> Iterator[Cost]:
    cost = Cost()

    def executed(connection: Any, cursor: Any, statement: str, *rest: object) -> None:
        if not statement.startswith("BEGIN"):
            cost.statements.append(statement)

    def committed(connection: Any) -> None:
        cost.commits += 1

    engine = store.database.engine
    event.listen(engine, "before_cursor_execute", executed)
    event.listen(engine, "commit", committed)
    yield cost
    event.remove(engine, "before_cursor_execute", executed)
    event.remove(engine, "commit", committed)


def test_new_predict_costs_five_statements_and_one_commit(
    client: FlaskClient, store: Store, predict_body: Callable[..., Any]
) -> None:
    client.post("/predict", json=predict_body(1))
    with counted(store) as cost:
        assert client.post("/predict", json=predict_body(2)).status_code == 200
    assert len(cost.statements) == 5, cost.statements
    assert cost.commits == 1
    assert sum(statement.startswith("INSERT") for statement in cost.statements) == 2


def test_repeated_predict_costs_three_statements_and_writes_nothing(
    client: FlaskClient, store: Store, predict_body: Callable[..., Any]
) -> None:
    client.post("/predict", json=predict_body(1))
    with counted(store) as cost:
        assert client.post("/predict", json=predict_body(1)).status_code == 200
    assert len(cost.statements) == 3, cost.statements
    assert all(statement.startswith("SELECT") for statement in cost.statements)
    assert cost.commits == 0


def test_a_batch_costs_no_more_than_one_task(
    client: FlaskClient, store: Store, predict_body: Callable[..., Any]
) -> None:
    client.post("/predict", json=predict_body(1))
    with counted(store) as cost:
        assert client.post("/predict", json=predict_body(*range(2, 302))).status_code == 200
    # Nobody has a batch open, so no opening is noted.
    assert len(cost.statements) == 4, cost.statements
    assert cost.commits == 1
    assert len(store.jobs.newest(limit=400)) == 301


def test_a_changed_labelling_configuration_counts_at_once(
    client: FlaskClient, store: Store, predict_body: Callable[..., Any]
) -> None:
    client.post("/predict", json=predict_body(1))
    client.post("/predict", json=predict_body(2, view="box"))
    assert "VideoRectangle" in store.projects.of_label_studio(7).label_config
    with counted(store) as cost:
        client.post("/predict", json=predict_body(2, view="box"))
    assert cost.commits == 0
