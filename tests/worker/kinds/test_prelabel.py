"""The job kind `prelabel` if each label of the project has its own instruction."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from backend.settings import Settings
from backend.store import Job, Store
from backend.store.models import PartialFrames
from trajseg.tracks import rle
from worker.run import keep, run
from worker.state import WorkerState

ASKED = [["ball", "the red square"], ["box", "the blue and the red square"], ["none", "a cat"]]


@pytest.fixture
def resident(tmp_path: Path, store: Store, scripted_engine: Any, tiny_clip: Any) -> Iterator[WorkerState]:
    settings = Settings(
        data_dir=tmp_path / "data", media_dirs=(str(tiny_clip.path.parent),), label_studio_url="http://127.0.0.1:9"
    )
    kept = WorkerState(settings, store, scripted_engine)
    keep(kept)
    yield kept
    keep(None)


@pytest.fixture
def job(store: Store, tiny_clip: Any) -> Job:
    project = store.projects.upsert(1, "http://127.0.0.1:9", "<View/>")
    text = "; ".join(": ".join(pair) for pair in ASKED)
    return store.jobs.add("prelabel", project.id, 7, str(tiny_clip.path), text, "prelabel", {"instructions": ASKED})[0]


@pytest.mark.usefixtures("resident")
def test_each_label_gets_the_tracks_of_its_own_instruction(store: Store, job: Job, tiny_clip: Any) -> None:
    run(job.id)
    done = store.jobs.get(job.id)
    assert done.state == "done", done.error
    assert (done.frames_done, done.frames_total) == (12, 12)
    result = store.jobs.result(job.id)
    assert [(track.label, track.instruction) for track in result.tracks] == [
        ("ball", "the red square"),
        ("box", "the blue and the red square"),
        ("box-2", "the blue and the red square"),
    ]
    assert len({track.uid for track in result.tracks}) == 3
    assert rle.iou(result.tracks[0].frames[3].rle, rle.encode(tiny_clip.red[3])) > 0.9
    assert rle.iou(result.tracks[2].frames[3].rle, rle.encode(tiny_clip.blue[3])) > 0.9
    assert result.answer.splitlines() == ["ball: red", "box: red, blue", "none: there is none"]


def test_progress_counts_the_frames_of_all_labels(
    resident: WorkerState, store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, int]] = []
    progress = store.runs.progress

    def note(job_id: str, token: str, done: int, total: int) -> None:
        made.append((done, total))
        progress(job_id, token, done, total)

    monkeypatch.setattr(store.runs, "progress", note)
    run(job.id)
    counts = [done for done, total in made if total == 36]
    assert counts == sorted(counts)
    assert counts[-1] == 36


def test_a_run_that_was_preempted_resumes_in_the_part_where_it_was(
    resident: WorkerState, store: Store, job: Job, scripted_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.turn import Turn

    drawn: list[int] = []
    frames = scripted_engine.frames

    def watched(*arguments: Any) -> Iterator[Any]:
        for frame in frames(*arguments):
            drawn.append(frame.index)
            yield frame

    monkeypatch.setattr(scripted_engine, "frames", watched)
    # In the middle of the second label.
    monkeypatch.setattr(Turn, "is_over", lambda self, done, total: done == 18)
    run(job.id)
    assert store.jobs.get(job.id).state == "queued"
    assert len(drawn) == 18
    monkeypatch.setattr(Turn, "is_over", lambda self, done, total: False)
    run(job.id)
    assert store.jobs.get(job.id).state == "done"
    assert len(drawn) == 24, "no frame is drawn twice; the last label means nothing"
    assert [track.label for track in store.jobs.result(job.id).tracks] == ["ball", "box", "box-2"]


def test_kept_frames_that_cannot_be_read_are_dropped_and_the_job_starts_over(
    resident: WorkerState, store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged row, or another version's format: the job used to fail at each run."""
    from worker.turn import Turn

    for data in (b"no zlib", zlib.compress(b'[{"index": 0}]')):
        store.jobs.retry(job.id)
        monkeypatch.setattr(Turn, "is_over", lambda self, done, total: done == 4)
        run(job.id)
        with store.database.write() as session:
            damaged: Any = session.execute(update(PartialFrames).values(data=data))
        assert damaged.rowcount > 0
        monkeypatch.setattr(Turn, "is_over", lambda self, done, total: False)
        run(job.id)
        done = store.jobs.get(job.id)
        assert (done.state, done.error) == ("done", "")
        assert len(store.jobs.result(job.id).tracks) == 3
