"""The schema is upgraded and downgraded one version at a time without loss, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

import backend.store
from backend.store import Store
from backend.store.models import Correction, now
from trajseg.tracks import Result

MIGRATIONS = Path(backend.store.__file__).parent / "migrations"
WITH_EVERYTHING_BELOW = "0002"
"""The oldest version that has projects, jobs, tracks, deliveries, annotations and corrections."""


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    store.migrate()
    yield store
    store.close()


def revisions() -> list[str]:
    """Oldest first."""
    script = ScriptDirectory(str(MIGRATIONS))
    return [revision.revision for revision in script.walk_revisions()][::-1]


def move(store: Store, direction: str, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with store.database.engine.execution_options(writes=True).begin() as connection:
        config.attributes["connection"] = connection
        getattr(command, direction)(config, revision)


def test_no_migration_recreates_a_table() -> None:
    # SQLite deletes the tracks with the jobs when the old table is dropped.
    for path in (MIGRATIONS / "versions").glob("*.py"):
        assert "batch_alter_table" not in path.read_text(), path.name


def test_what_people_did_outlives_every_step_down_and_up(store: Store, result: Result) -> None:
    project = store.projects.upsert(7, "http://studio", "<View/>", stamp="17")
    job, _ = store.jobs.add("prelabel", project.id, 1, "/clip.mp4", "the red square", "prelabel")
    store.runs.finish(job.id, store.runs.start(job.id) or "", result)
    with store.database.write() as session:
        session.add(
            Correction(
                annotation_id=3,
                task_id=1,
                project_id=project.id,
                job_id=job.id,
                track_uid="t1",
                label="track-1",
                frame_index=0,
                kind="painted",
                when=now(),
            )
        )
    ordered = revisions()
    down = [revision for revision in reversed(ordered) if revision >= WITH_EVERYTHING_BELOW]
    for revision in down[1:]:
        move(store, "downgrade", revision)
    for revision in down[-2::-1]:
        move(store, "upgrade", revision)
    assert store.projects.of_label_studio(7, "17").id == project.id
    assert store.jobs.get(job.id).state == "done"
    assert [track.to_json() for track in store.jobs.result(job.id).tracks] == [
        track.to_json() for track in result.tracks
    ]
    assert store.deliveries.of_job(job.id) is not None
    assert [row.frame_index for row in store.corrections.of_annotation(project.id, 3)] == [0]
