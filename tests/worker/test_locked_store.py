"""A backup tool locks SQLite's file for longer than any timeout."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from backend.settings import Settings
from backend.store import Store, database
from worker.run import keep, run
from worker.state import WorkerState


def test_a_store_locked_for_too_long_gives_the_job_back_instead_of_failing_it(
    tmp_path: Path, tiny_clip: Any, scripted_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.3)
    file = tmp_path / "store.db"
    store = Store(f"sqlite:///{file}")
    store.migrate()
    job, _ = store.jobs.add("prelabel", None, None, str(tiny_clip.path), "red", "prelabel")
    backup = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    progress = store.runs.progress

    def lock_in_the_middle(job_id: str, token: str, done: int, total: int) -> None:
        if done == 3:
            backup.execute("BEGIN IMMEDIATE")
        progress(job_id, token, done, total)

    monkeypatch.setattr(store.runs, "progress", lock_in_the_middle)
    keep(
        WorkerState(
            Settings(data_dir=tmp_path / "data", media_dirs=(str(tiny_clip.path.parent),)), store, scripted_engine
        )
    )
    working = threading.Thread(target=run, args=(job.id,))
    working.start()
    time.sleep(3.0)
    backup.execute("ROLLBACK")
    working.join(30)
    keep(None)
    held = store.jobs.get(job.id)
    assert (held.state, held.error, held.runs) == ("queued", "", 0)
    store.close()


def test_a_job_is_not_taken_away_because_the_store_was_locked(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    store = Store(f"sqlite:///{file}")
    store.migrate()
    job, _ = store.jobs.add("prelabel", None, None, "/clip.mp4", "red", "prelabel")
    token = store.runs.start(job.id)
    backup = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    backup.execute("BEGIN IMMEDIATE")
    unlock = threading.Timer(1.5, lambda: backup.execute("ROLLBACK"))
    unlock.start()
    assert not store.runs.is_lost(job.id, token, 0.0), "the run could not send a heartbeat either"
    unlock.join()
    assert store.runs.is_lost(job.id, token, 0.0), "it had its chance"
    assert not store.runs.is_lost(job.id, "an older token", 0.0)
    store.close()
