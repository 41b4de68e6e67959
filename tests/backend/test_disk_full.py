"""A full disk: SQLite refuses to grow, nothing is lost, and everything continues when there is space again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import event
from sqlalchemy.engine import Connection

from backend.settings import Settings
from backend.store import Store
from trajseg.tracks import Result
from worker.run import keep, run
from worker.state import WorkerState

NO_LIMIT = 2**30


class Disk:
    """The disk of a store's file, which can be made full."""

    def __init__(self, store: Store) -> None:
        self.full = False
        event.listen(store.database.engine, "begin", self._limit)

    def _limit(self, connection: Connection) -> None:
        # SQLite treats a number below the file's size as that size.
        connection.exec_driver_sql(f"PRAGMA max_page_count = {1 if self.full else NO_LIMIT}")


@pytest.fixture
def disk(store: Store) -> Disk:
    return Disk(store)


def test_a_request_on_a_full_disk_is_refused_in_words_and_taken_when_there_is_room(
    client: FlaskClient, store: Store, disk: Disk, predict_body: Callable[..., Any]
) -> None:
    disk.full = True
    # Enough tasks that they need new pages.
    body = predict_body(*range(1, 201))
    refused = client.post("/predict", json=body)
    assert refused.status_code == 503
    assert "full" in refused.get_json()["error"] + refused.get_json()["remedy"]
    assert store.jobs.newest() == []
    assert client.get("/page/jobs").status_code == 200
    disk.full = False
    assert client.post("/predict", json=body).status_code == 200
    assert len(store.jobs.newest(limit=300)) == 200


def test_a_job_on_a_full_disk_goes_back_to_the_queue_and_is_done_when_there_is_room(
    tmp_path: Path, tiny_clip: Any, scripted_engine: Any, store: Store, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = store.jobs.add("prelabel", None, None, str(tiny_clip.path), "red and blue", "prelabel")
    finish = store.runs.finish

    def fill_up(job_id: str, token: str, done: Result, *rest: Any, **more: Any) -> Any:
        # So large that it needs new pages.
        done.tracks[0].caption = 20_000 * "a red square "
        disk.full = True
        return finish(job_id, token, done, *rest, **more)

    monkeypatch.setattr(store.runs, "finish", fill_up)
    keep(
        WorkerState(
            Settings(data_dir=tmp_path / "work", media_dirs=(str(tiny_clip.path.parent),)), store, scripted_engine
        )
    )
    run(job.id)
    disk.full = False
    held = store.jobs.get(job.id)
    assert (held.state, held.error) == ("queued", ""), held.error
    monkeypatch.undo()
    run(job.id)
    keep(None)
    assert store.jobs.get(job.id).state == "done"
    assert len(store.jobs.result(job.id).tracks) == 2
