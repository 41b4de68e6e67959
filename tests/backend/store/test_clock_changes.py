"""Stored and shown times are UTC, whatever daylight saving and the zones of machine and database."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import make_url, update

from backend.composition import compose
from backend.http.app import create_app
from backend.logs import RedactingFormatter
from backend.queue import JobQueue
from backend.settings import Settings
from backend.store import Store
from backend.store.models import Job, now

AUTUMN = (datetime(2026, 11, 1, 5, 30, tzinfo=UTC), datetime(2026, 11, 1, 6, 30, tzinfo=UTC))
"""Both are half past one in New York, where the clock is set back in between."""
SPRING = (datetime(2026, 3, 8, 6, 59, 59, tzinfo=UTC), datetime(2026, 3, 8, 7, 0, tzinfo=UTC))
"""One second apart; the wall clock goes from 1:59:59 to 3:00:00."""


@pytest.fixture(autouse=True)
def _in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    url = make_url(database_url)
    if url.get_backend_name() == "postgresql":
        url = url.update_query_dict({"options": "-c timezone=America/New_York"})
    store = Store(url.render_as_string(hide_password=False))
    store.migrate()
    yield store
    store.close()


@pytest.mark.parametrize("moments", [AUTUMN, SPRING])
def test_repeated_and_skipped_hours_are_stored_and_shown_in_utc(
    store: Store, settings: Settings, queue: JobQueue, moments: tuple[datetime, datetime]
) -> None:
    project = store.projects.upsert(7, "", "<View/>").id
    jobs = [store.jobs.add("prelabel", project, task, "v", "i", "prelabel")[0] for task in (1, 2)]
    with store.database.write() as session:
        for job, moment in zip(jobs, moments, strict=True):
            session.execute(update(Job).where(Job.id == job.id).values(created_at=moment))
    read = [store.jobs.get(job.id).created_at for job in jobs]
    assert read == list(moments)
    assert [moment.tzinfo for moment in read] == [UTC, UTC]
    assert [job.id for job in store.jobs.newest()] == [jobs[1].id, jobs[0].id]
    client = create_app(compose(settings, store, queue)).test_client()
    for job, moment in zip(jobs, moments, strict=True):
        assert moment.isoformat() in client.get(f"/jobs/{job.id}").text
        assert f"{moment:%Y-%m-%d %H:%M} UTC" in client.get(f"/page/jobs/{job.id}").text


def test_database_clock_is_utc_in_any_zone(store: Store) -> None:
    assert abs((store.now() - now()).total_seconds()) < 60


def test_log_lines_are_in_utc(settings: Settings) -> None:
    record = logging.LogRecord("trajseg", logging.INFO, "", 0, "x", (), None)
    record.created = AUTUMN[0].timestamp()
    assert RedactingFormatter(settings, "%(asctime)s %(message)s").format(record).startswith("2026-11-01 05:30:00")
    assert RedactingFormatter(settings, "%(asctime)s %(message)s", "%H:%M:%S").format(record) == "05:30:00 x"
