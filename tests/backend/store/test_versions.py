"""Versions of a project's model: which one serves, rollback, and jobs that yield."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.store import StaleRunError, Store
from backend.store.versions import UnknownVersionError
from trajseg.errors import CancelledError, InputError

BASE = "trajseg-tiny"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path / 'trajseg.db'}")
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def project_id(store: Store) -> int:
    return store.projects.upsert(12, "http://ls", "<View/>").id


def trained(store: Store, project_id: int, job: str, promoted: bool = True) -> int:
    version = store.versions.of_job(project_id, BASE, job)
    return store.versions.decide(version.id, promoted, "measured", f"models/{version.number}", {"seed": 0}).number


def test_last_promoted_version_serves_and_rollback_restores_the_previous_one(store: Store, project_id: int) -> None:
    versions = store.versions
    assert versions.served_name(project_id, BASE) == BASE
    for job in ("a", "b"):
        trained(store, project_id, job)
    assert versions.served_name(project_id, BASE) == "trajseg-tiny/project-12@2"
    out, now_served = versions.rollback(project_id, BASE)
    assert now_served
    assert (out.number, now_served.number) == (2, 1)
    assert versions.served_name(project_id, BASE) == "trajseg-tiny/project-12@1"
    assert versions.rollback(project_id, BASE)[1] is None
    assert versions.served_name(project_id, BASE) == BASE
    with pytest.raises(InputError, match="served by the base"):
        versions.rollback(project_id, BASE)
    versions.promote(project_id, 2, "by hand")
    assert versions.served_name(project_id, BASE) == "trajseg-tiny/project-12@2"
    assert [(one.number, one.state) for one in versions.list()] == [(2, "promoted"), (1, "rolled back")]


def test_a_refused_candidate_and_one_in_training_do_not_serve(store: Store, project_id: int) -> None:
    assert trained(store, project_id, "a", promoted=False) == 1
    again = store.versions.of_job(project_id, BASE, "b")
    assert store.versions.of_job(project_id, BASE, "b").number == again.number == 2, "a job that runs again"
    assert store.versions.served(project_id, BASE) is None
    with pytest.raises(InputError, match="no adapter yet"):
        store.versions.promote(project_id, 2)
    with pytest.raises(UnknownVersionError):
        store.versions.promote(project_id, 9)
    assert store.versions.version(project_id, 1).state == "refused"


def test_versions_of_another_base_or_project_do_not_serve(store: Store, project_id: int) -> None:
    trained(store, project_id, "a")
    other = store.projects.upsert(13, "http://ls", "<View/>").id
    assert store.versions.served(other, BASE) is None
    assert store.versions.served(project_id, "trajseg-7b") is None
    assert store.versions.served(None, BASE) is None
    assert trained(store, other, "b") == 1, "numbers count from 1 in each project"


def test_yielding_job_keeps_its_place_and_attempts(store: Store, project_id: int) -> None:
    job, _ = store.jobs.add("prelabel", project_id, 1, "a.mp4", "it", "finetune")
    token = store.runs.start(job.id)
    assert token
    assert store.runs.make_way(job.id, token)
    held = store.jobs.get(job.id)
    assert (held.state, held.runs) == ("queued", 0)
    assert not store.runs.make_way(job.id, token), "another run may have begun"


def test_only_the_newest_run_of_the_training_decides_and_none_after_a_cancel(store: Store, project_id: int) -> None:
    job, _ = store.jobs.add("finetune", project_id, None, "", "", "finetune")
    version = store.versions.of_job(project_id, BASE, job.id)
    older, newer = store.runs.start(job.id), store.runs.start(job.id)
    with pytest.raises(StaleRunError):
        store.versions.decide(version.id, True, "by the older run", "models/1", {}, older)
    store.versions.decide(version.id, False, "by the newer run", "models/1", {}, newer)
    [held] = store.versions.list(project_id)
    assert (held.state, held.reason) == ("refused", "by the newer run")
    store.jobs.cancel(job.id)
    with pytest.raises(CancelledError):
        store.versions.decide(version.id, True, "after the cancel", "models/1", {}, newer)
    assert store.versions.served_name(project_id, BASE) == BASE
