"""A database that answers with errors: a standby after a failover, a damaged file. Nothing is half done or lost."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask.testing import FlaskClient
from sqlalchemy import make_url, text

from backend.composition import compose
from backend.http.app import create_app
from backend.queue import JobQueue
from backend.settings import Settings
from backend.store import Store


@contextmanager
def standby(url: str) -> Iterator[None]:
    """New connections to this database cannot write, as on a standby."""
    setting = f'ALTER DATABASE "{make_url(url).database}" SET default_transaction_read_only ='
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"{setting} on".encode())
        try:
            yield
        finally:
            connection.execute(b"SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE")
            connection.execute(f"{setting} off".encode())


def test_a_standby_takes_no_request_and_says_why(
    postgres_url: str, settings: Settings, queue: JobQueue, predict_body: Callable[..., Any]
) -> None:
    store = Store(postgres_url)
    store.migrate()
    client = create_app(compose(settings, store, queue)).test_client()
    store.close()
    with standby(postgres_url):
        refused = client.post("/predict", json=predict_body(1))
        assert refused.status_code == 503
        assert "read-only" in refused.get_json()["error"]
        assert "standby" in refused.get_json()["remedy"]
        assert client.get("/page/jobs").status_code == 200
    store.close()
    assert client.post("/predict", json=predict_body(1)).status_code == 200
    assert len(store.jobs.newest()) == 1
    store.close()


@pytest.mark.parametrize("path", ["/page/jobs?q=%00", "/page/jobs.json?q=a%00b"])
def test_a_search_for_what_postgresql_cannot_hold_is_the_requests_fault(
    postgres_url: str, settings: Settings, queue: JobQueue, path: str
) -> None:
    store = Store(postgres_url)
    store.migrate()
    answer = create_app(compose(settings, store, queue)).test_client().get(path)
    assert answer.status_code == 400
    assert "NUL" in answer.text
    store.close()


def test_a_number_that_no_database_holds_is_the_requests_fault(client: FlaskClient) -> None:
    answer = client.get(f"/page/models/{2**63}/{2**63}/differences.png")
    assert answer.status_code == 400
    assert "number too large" in answer.text


def test_a_damaged_file_is_no_surprise(client: FlaskClient, store: Store, predict_body: Callable[..., Any]) -> None:
    assert client.post("/predict", json=predict_body(1)).status_code == 200
    store.close()
    file = Path(str(store.database.url.database))
    whole = file.read_bytes()
    file.write_bytes(b"not a database at all " * (len(whole) // 22))
    refused = client.post("/predict", json=predict_body(2))
    assert refused.status_code == 503
    assert "damaged" in refused.get_json()["remedy"]
    assert client.get("/health").status_code == 503
    store.close()
    file.write_bytes(whole)
    assert client.post("/predict", json=predict_body(2)).status_code == 200
    assert len(store.jobs.newest()) == 2


@pytest.fixture
def pooled(postgres_url: str) -> Iterator[Store]:
    """A store with one connection in its pool."""
    store = Store(postgres_url)
    store.migrate()
    store.close()
    assert store.jobs.newest() == []
    yield store
    store.close()


def backend_pid(store: Store) -> int:
    with store.database.read() as session:
        return int(session.execute(text("SELECT pg_backend_pid()")).scalar_one())


@pytest.mark.timeout(60)
def test_a_connection_that_a_signal_interrupted_is_replaced(pooled: Store) -> None:
    """It used to stay in the pool in the middle of a statement, and caused an error for its next user."""

    def ring(number: int, frame: object) -> None:
        raise SystemExit

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with pooled.database.read() as session:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(SystemExit):
                session.execute(text("SELECT pg_sleep(20)"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    for _ in range(3):
        assert pooled.jobs.newest() == []


def test_a_connection_left_in_the_middle_of_a_statement_is_replaced(pooled: Store) -> None:
    borrowed = pooled.database.engine.raw_connection()
    driver: Any = borrowed.driver_connection
    borrowed.close()
    driver.pgconn.send_query(b"SELECT pg_sleep(20)")
    before = driver.info.backend_pid
    assert pooled.jobs.newest() == []
    assert backend_pid(pooled) != before


def test_a_connection_that_the_server_closed_is_replaced_before_a_statement_fails_on_it(pooled: Store) -> None:
    closed = backend_pid(pooled)
    with psycopg.connect(pooled.database.url.set(drivername="postgresql").render_as_string(False)) as other:
        other.execute(b"SELECT pg_terminate_backend(%s, 5000)", [closed])
    assert pooled.jobs.newest() == []
    assert backend_pid(pooled) != closed


def test_a_reused_connection_costs_no_round_trip_of_its_own(pooled: Store) -> None:
    """A ping before each statement used to cost /predict three of ten round trips."""
    assert not pooled.database.engine.pool._pre_ping
    first = backend_pid(pooled)
    assert backend_pid(pooled) == first
