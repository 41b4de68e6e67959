"""A migration that changes rows preserves their content, up and down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

import backend.store
from backend.store import Store

Row = tuple[str, str, dict[str, Any]]
"""State, error and params of a job."""
NOT_UNDERSTOOD: Row = ("failed", "Not understood: 'the' names nothing.", {"typed": True})
FAILED: Row = ("failed", "The link is dead.", {})
LACKING: Row = ("failed", "Task 3 has no video.", {"rejected": True, "engine": "sam3"})
DONE: Row = ("done", "", {})


def to(store: Store, revision: str, down: bool = False) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(backend.store.__file__).parent / "migrations"))
    with store.database.engine.execution_options(writes=True).begin() as connection:
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, revision)


def rows(store: Store, column: str = "") -> list[Any]:
    query = f"SELECT state, error, params{column and ', ' + column} FROM jobs ORDER BY id"
    with store.database.read() as session:
        return [(row[0], row[1], json.loads(row[2]), *row[3:]) for row in session.execute(text(query))]


@pytest.fixture
def store(tmp_path: Path) -> Any:
    opened = Store(f"sqlite:///{tmp_path / 'old.db'}")
    yield opened
    opened.close()


def test_rejected_jobs(store: Store) -> None:
    to(store, "0040")
    before = [NOT_UNDERSTOOD, FAILED, LACKING, DONE]
    with store.database.write() as session:
        for number, (state, error, params) in enumerate(before):
            session.execute(
                text(
                    "INSERT INTO jobs (id, request_key, kind, state, queue, video, instruction, params, frames_done,"
                    " frames_total, error, remedy, runs, model_version, created_at) VALUES (:id, :id, 'prelabel',"
                    " :state, 'prelabel', '', '', :params, 0, 0, :error, '', 0, 'm', '2026-01-01 00:00:00')"
                ),
                {"id": str(number), "state": state, "error": error, "params": json.dumps(params)},
            )
    to(store, "head")
    assert rows(store, "rejection") == [
        ("rejected", "'the' names nothing.", {"typed": True}, "instruction"),
        (*FAILED, ""),
        ("rejected", "Task 3 has no video.", {"engine": "sam3"}, "task"),
        (*DONE, ""),
    ]
    to(store, "0040", down=True)
    assert rows(store) == before
    to(store, "head")
    assert [job.state for job in store.jobs.newest()].count("rejected") == 2
    assert {(group.trouble, group.error) for group in store.failures.groups()} == {
        ("rejected", "'the' names nothing."),
        ("failed", FAILED[1]),
        ("rejected", "Task 3 has no video."),
    }
