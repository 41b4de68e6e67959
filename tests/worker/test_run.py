"""One job from video to result, and every other way in which it can end; with a real store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from sqlalchemy import update

from backend.settings import Settings
from backend.store import Job, Store
from trajseg.engines.base import PLAIN, EngineSpec, RunContext
from trajseg.engines.segmentation import Segmentation
from trajseg.files import content_hash
from trajseg.progress import Progress
from trajseg.video import Clip
from worker import run as jobs
from worker.run import keep, run
from worker.state import WorkerState


@pytest.fixture
def settings(tmp_path: Path, tiny_clip: Any) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",
        media_dirs=(str(tiny_clip.path.parent), str(tmp_path)),
        label_studio_url="http://127.0.0.1:9",
        max_key_frames=5,
    )


@pytest.fixture
def resident(settings: Settings, store: Store, scripted_engine: Any) -> Iterator[WorkerState]:
    kept = WorkerState(settings, store, scripted_engine)
    keep(kept)
    yield kept
    keep(None)


Ask = Callable[..., Job]


@pytest.fixture
def ask(store: Store, tiny_clip: Any) -> Ask:
    """Stores a job like the backend."""
    project = store.projects.upsert(1, "http://127.0.0.1:9", "<View/>")

    def add(video: str | Path = tiny_clip.path, instruction: str = "the red square", kind: str = "prelabel") -> Job:
        queue = "prelabel"
        job, created = store.jobs.add(kind, project.id, 7, str(video), instruction, queue)
        assert created
        return job

    return add


def engine_that(does: Callable[[Clip, str, Progress], Segmentation]) -> Any:
    class Engine:
        spec = EngineSpec(name="test", model_version="test")

        def segment(self, clip: Clip, instruction: str, context: RunContext = PLAIN) -> Segmentation:
            assert context.progress
            return does(clip, instruction, context.progress)

    return Engine()


@pytest.mark.usefixtures("resident")
def test_a_job_ends_with_its_tracks_in_the_store(store: Store, ask: Ask, tiny_clip: Any) -> None:
    job = ask(instruction="  the red and the blue square ")
    run(job.id)
    done = store.jobs.get(job.id)
    assert (done.state, done.frames_done, done.frames_total) == ("done", 12, 12)
    assert done.notes.video_hash == content_hash(tiny_clip.path)
    result = store.jobs.result(job.id)
    assert result.video == str(tiny_clip.path)
    assert [track.caption for track in result.tracks] == ["something red", "something blue"]
    overlap = result.tracks[0].mask(5) & tiny_clip.red[5]
    assert overlap.sum() > 0.9 * tiny_clip.red[5].sum()
    assert result.tracks[1].mask(10).sum() == 0
    assert {"fetch", "open", "masks"} <= result.timings.keys()


def test_key_frames_are_on_disk_before_the_result_is_known(
    resident: WorkerState, store: Store, ask: Ask, tiny_clip: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ask()
    folder = resident.settings.media_dir / job.id
    seen: list[str] = []
    finish = store.runs.finish

    def look(*args: Any) -> Any:
        seen.extend(sorted(path.name for path in folder.iterdir()))
        return finish(*args)

    monkeypatch.setattr(store.runs, "finish", look)
    run(job.id)
    assert len(seen) == 5
    assert (seen[0], seen[-1]) == ("000000.jpg", "000011.jpg")
    with Image.open(folder / "000000.jpg") as picture:
        rgb = np.asarray(picture)
    assert rgb.shape == (64, 96, 3)
    assert abs(rgb[12:20, 8:16].mean(axis=(0, 1)) - (230, 20, 20)).max() < 25


@pytest.mark.usefixtures("resident")
def test_the_prediction_waits_plainly_when_no_label_studio_is_configured(store: Store, ask: Ask) -> None:
    job = ask()
    run(job.id)
    assert jobs._resident is not None
    assert jobs._resident.hand.finish(10)
    delivery = store.deliveries.of_job(job.id)
    assert delivery is not None
    assert delivery.state == "pending"
    assert "token" in delivery.last_error


def test_progress_is_reported_once_per_frame(
    resident: WorkerState, store: Store, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    progress = store.runs.progress

    def note(job_id: str, token: str, done: int, total: int) -> None:
        told.append((done, total))
        progress(job_id, token, done, total)

    monkeypatch.setattr(store.runs, "progress", note)
    run(ask().id)
    assert told == [(done, 12) for done in range(13)]


def test_a_cancelled_job_stops_at_its_next_frame(resident: WorkerState, store: Store, ask: Ask) -> None:
    job = ask()
    frames = 0

    def segment(clip: Clip, instruction: str, progress: Progress) -> Segmentation:
        nonlocal frames
        for frames in range(1, len(clip) + 1):
            if frames == 3:
                store.jobs.cancel(job.id)
            progress(frames, len(clip))
        raise AssertionError("went on")

    keep(WorkerState(resident.settings, store, engine_that(segment)))
    run(job.id)
    assert frames == 3
    assert store.jobs.get(job.id).state == "cancelled"
    assert not (resident.settings.media_dir / job.id).exists()


def test_a_job_that_was_cancelled_before_it_began_is_not_begun(resident: WorkerState, store: Store, ask: Ask) -> None:
    job = ask()
    store.jobs.cancel(job.id)
    run(job.id)
    assert store.jobs.get(job.id).runs == 0


def test_a_stale_run_writes_nothing(resident: WorkerState, store: Store, ask: Ask, scripted_engine: Any) -> None:
    job = ask()

    def segment(clip: Clip, instruction: str, progress: Progress) -> Segmentation:
        store.runs.start(job.id)
        return scripted_engine.segment(clip, instruction)

    keep(WorkerState(resident.settings, store, engine_that(segment)))
    run(job.id)
    held = store.jobs.get(job.id)
    assert (held.state, held.runs, held.result) == ("running", 2, None)


def test_a_stale_run_that_fails_does_not_fail_the_newer_one(resident: WorkerState, store: Store, ask: Ask) -> None:
    job = ask()

    def segment(clip: Clip, instruction: str, progress: Progress) -> Segmentation:
        store.runs.start(job.id)
        raise RuntimeError("late")

    keep(WorkerState(resident.settings, store, engine_that(segment)))
    run(job.id)
    assert store.jobs.get(job.id).state == "running"


def test_a_run_that_is_asked_to_stop_returns_its_job(resident: WorkerState, store: Store, ask: Ask) -> None:
    job = ask()

    def segment(clip: Clip, instruction: str, progress: Progress) -> Segmentation:
        raise SystemExit

    keep(WorkerState(resident.settings, store, engine_that(segment)))
    run(job.id)
    assert store.jobs.get(job.id).state == "queued"


def test_a_run_lives_while_there_are_no_frames_to_count(
    resident: WorkerState, store: Store, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "HEARTBEAT_SECONDS", 0.02)
    job = ask()
    beats = []

    def segment(clip: Clip, instruction: str, progress: Progress) -> Segmentation:
        first = store.jobs.get(job.id).heartbeat_at
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if store.jobs.get(job.id).heartbeat_at != first:
                beats.append(True)
                break
        raise RuntimeError("enough")

    keep(WorkerState(resident.settings, store, engine_that(segment)))
    run(job.id)
    assert beats


def silent_video(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def cut_off(source: Path, path: Path) -> Path:
    path.write_bytes(source.read_bytes()[:40])
    return path


def no_video(path: Path) -> Path:
    path.write_text("this is not a video\n" * 100)
    return path


BAD_VIDEOS: dict[str, Callable[[Path, Path], str | Path]] = {
    "missing": lambda folder, clip: folder / "missing.mp4",
    "unreadable": lambda folder, clip: no_video(folder / "unreadable.mp4"),
    "audio only": lambda folder, clip: silent_video(folder / "audio.mp4"),
    "truncated": lambda folder, clip: cut_off(clip, folder / "truncated.mp4"),
    "dead link": lambda folder, clip: "http://127.0.0.1:9/clip.mp4",
    "host that is not allowed": lambda folder, clip: "http://example.invalid/clip.mp4",
}


@pytest.mark.parametrize("kind", BAD_VIDEOS)
def test_a_bad_video_fails_the_job_with_a_reason_and_a_remedy(
    kind: str, resident: WorkerState, store: Store, ask: Ask, tiny_clip: Any, tmp_path: Path
) -> None:
    video = BAD_VIDEOS[kind](tmp_path, tiny_clip.path)
    job = ask(video=video)
    run(job.id)
    failed = store.jobs.get(job.id)
    assert failed.state == "failed"
    assert str(video) in failed.error or "Label Studio" in failed.error
    assert failed.remedy


@pytest.mark.parametrize("instruction", ["", "   ", "x" * 10_000])
def test_a_bad_instruction_rejects_the_job_with_a_reason_and_a_remedy(
    instruction: str, resident: WorkerState, store: Store, ask: Ask
) -> None:
    job = ask(instruction=instruction)
    run(job.id)
    job = store.jobs.get(job.id)
    assert (job.state, job.rejection) == ("rejected", "instruction")
    assert "instruction" in job.error
    assert job.remedy


def test_a_clip_with_too_many_frames_is_refused(resident: WorkerState, store: Store, ask: Ask) -> None:
    settings = resident.settings.model_copy(update={"max_frames": 11})
    keep(WorkerState(settings, store, resident.engine))
    job = ask()
    run(job.id)
    assert "more than 11 frames" in store.jobs.get(job.id).error


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (MemoryError(), "not enough memory"),
        (OutOfMemoryError("CUDA out of memory"), "not enough memory"),
    ],
)
def test_an_error_inside_the_engine_fails_the_job_and_spares_the_worker(
    error: Exception, said: str, resident: WorkerState, store: Store, ask: Ask
) -> None:
    def segment(clip: Clip, instruction: str, progress: Progress) -> Segmentation:
        raise error

    keep(WorkerState(resident.settings, store, engine_that(segment)))
    job = ask()
    run(job.id)
    failed = store.jobs.get(job.id)
    assert failed.state == "failed"
    assert said in failed.error
    assert failed.remedy


@pytest.mark.usefixtures("resident")
def test_a_kind_of_job_that_this_version_does_not_know_is_reported(store: Store, ask: Ask) -> None:
    job = ask()
    with store.database.write() as session:
        session.execute(update(Job).values(kind="somersault"))
    run(job.id)
    failed = store.jobs.get(job.id)
    assert "somersault" in failed.error
    assert "same version" in failed.remedy


def test_a_signal_that_a_library_s_clean_up_hides_still_gives_the_job_back(
    settings: Settings, store: Store, ask: Ask
) -> None:
    """Found by the soak: psycopg, interrupted, raised an error of its own, and the job failed with it."""

    def stopped(clip: Clip, instruction: str, progress: Progress) -> Segmentation:
        try:
            raise SystemExit
        finally:
            raise RuntimeError("the connection is in the middle of a statement")

    job = ask()
    keep(WorkerState(settings, store, engine_that(stopped)))
    run(job.id)
    keep(None)
    held = store.jobs.get(job.id)
    assert (held.state, held.error, held.runs) == ("queued", "", 0)
