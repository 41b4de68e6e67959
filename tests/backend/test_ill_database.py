"""The database answers, but not well: a standby after a failover, a damaged file. Nothing is half done or forgotten."""

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
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

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
        assert "read-only" in refused.json["error"]
        assert "standby" in refused.json["remedy"]
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
    assert "damaged" in refused.json["remedy"]
    assert client.get("/health").status_code == 503
    store.close()
    file.write_bytes(whole)
    assert client.post("/predict", json=predict_body(2)).status_code == 200
    assert len(store.jobs.newest()) == 2


@pytest.mark.timeout(60)
def test_a_connection_that_a_signal_interrupted_is_replaced(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stayed in the pool in the middle of a statement, and whoever got it next met an error."""
    store = Store(postgres_url)
    store.migrate()
    store.close()

    def ring(number: int, frame: object) -> None:
        raise SystemExit

    pinged = PGDialect_psycopg.do_ping

    def slow_ping(dialect: PGDialect_psycopg, connection: Any) -> bool:
        monkeypatch.setattr(PGDialect_psycopg, "do_ping", pinged)
        monkeypatch.setattr(dialect, "_dialect_specific_select_one", "SELECT pg_sleep(20)")
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        return pinged(dialect, connection)

    with store.database.read() as session:
        session.execute(text("SELECT 1"))
    before = signal.signal(signal.SIGALRM, ring)
    monkeypatch.setattr(PGDialect_psycopg, "do_ping", slow_ping)
    try:
        with pytest.raises(SystemExit):
            store.jobs.newest()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        monkeypatch.undo()
    for _ in range(3):
        assert store.jobs.newest() == []
    store.close()
