"""A worker is killed in the middle of a job; real processes, a real Valkey, and the shipped model."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from backend.reconcile import Reconciler
from tests.worker_bench import SECONDS, Bench
from trajseg.engines.registry import load_engine
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import open_clip, write_video

pytestmark = pytest.mark.timeout(400)
FRAMES = 28


@pytest.fixture
def video(bench: Bench) -> Path:
    """A red square moves right, a blue one down."""
    pictures = []
    for index in range(FRAMES):
        picture = np.full((128, 160, 3), 200, np.uint8)
        picture[30:62, 8 + 2 * index : 40 + 2 * index] = (220, 30, 30)
        picture[60 + index : 84 + index, 120:144] = (30, 30, 220)
        pictures.append(picture)
    bench.video = write_video(bench.video.parent / "long.mp4", pictures, 12.0, crf=10)
    return bench.video


@pytest.mark.slow
def test_a_job_whose_worker_was_killed_resumes_within_30_s_where_it_was(bench: Bench, video: Path) -> None:
    bench.engine = "recording_engine:build"
    recording = bench.folder / "frames.txt"
    bench.valkey.start()
    bench.pace(0.2)
    workers = [bench.worker(RECORDING=str(recording)) for _ in range(2)]
    deadline = time.monotonic() + SECONDS
    while bench.output().count("is loaded") < 2:
        assert time.monotonic() < deadline, bench.output()
        time.sleep(0.02)
    job = bench.ask("the red square")
    bench.queue.enqueue(job)
    while not recording.exists() or len(recording.read_text().splitlines()) < 12:
        assert time.monotonic() < deadline, bench.output()
        time.sleep(0.02)
    (first,) = [worker for worker in workers if recording.read_text().startswith(f"{worker.pid} ")]
    first.kill()
    first.wait()
    killed = time.monotonic()
    drawn_before = [int(line.split()[1]) for line in recording.read_text().splitlines()]
    assert len(drawn_before) < FRAMES, "the job was done before its worker was killed"
    reconciler = Reconciler(bench.store, bench.queue, bench.settings)
    reconciler.start()
    while bench.store.jobs.get(job.id).runs < 2:
        assert time.monotonic() < killed + 30, bench.output()
        time.sleep(0.05)
    bench.pace(0)
    bench.wait_for(job, "done")
    reconciler.stop()
    drawn = [int(line.split()[1]) for line in recording.read_text().splitlines()]
    again = len(drawn) - len(set(drawn))
    assert set(drawn) == set(range(FRAMES))
    assert again <= 8, "at 0.2 s a frame, 1 s and the frame at hand may be lost"
    assert "resumes after" in bench.output()
    assert not bench.store.partial.any(job.id)
    undisturbed = load_engine("trajseg-tiny").segment(open_clip(video), "the red square").result()
    resumed = bench.store.jobs.result(job.id)
    assert len(resumed.tracks) == len(undisturbed.tracks) == 1
    overlaps = [
        region_similarity(resumed.tracks[0].mask(index), undisturbed.tracks[0].mask(index)) for index in range(FRAMES)
    ]
    assert undisturbed.tracks[0].mask(14).any()
    assert np.mean(overlaps) > 0.98
