"""Corrections do not wait behind a long prelabel, and the prelabel still gets done; real worker, real Valkey."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.worker_bench import SECONDS, Bench
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import write_video

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]
FRAMES = 40


@pytest.fixture
def video(bench: Bench) -> Path:
    """A red square moves right, a blue one down."""
    pictures = []
    for index in range(FRAMES):
        picture = np.full((128, 160, 3), 200, np.uint8)
        picture[30:62, 8 + index : 40 + index] = (220, 30, 30)
        picture[60 + index // 2 : 84 + index // 2, 120:144] = (30, 30, 220)
        pictures.append(picture)
    bench.video = write_video(bench.video.parent / "long.mp4", pictures, 12.0, crf=10)
    return bench.video


def drawn(bench: Bench, job_frames: int) -> int:
    deadline = time.monotonic() + SECONDS
    recording = bench.folder / "frames.txt"
    while not recording.exists() or len(recording.read_text().splitlines()) < job_frames:
        assert time.monotonic() < deadline, bench.output()
        time.sleep(0.02)
    return len(recording.read_text().splitlines())


def test_a_prelabel_yields_to_corrections_and_resumes_where_it_was(bench: Bench, video: Path, tiny_clip: Any) -> None:
    bench.engine = "recording_engine:build"
    bench.valkey.start()
    bench.pace(0.25)
    bench.worker(RECORDING=str(bench.folder / "frames.txt"))
    prelabel = bench.ask("the red square")
    bench.queue.enqueue(prelabel)
    for _ in range(2):
        # Only the worker can requeue the prelabel: there is no reconciler.
        bench.wait_for(prelabel, "running")
        before = drawn(bench, 1)
        drawn(bench, before + 8)
        asked = bench.ask(f"the blue square {time.monotonic()}", "interactive", tiny_clip.path)
        bench.queue.enqueue(asked)
        bench.wait_for(asked, "running")
        held = bench.store.jobs.get(prelabel.id)
        assert held.state == "queued", "it waits, and is not done"
        assert held.runs == 0, "a run that makes way does not count"
        bench.pace(0)
        bench.wait_for(asked, "done")
        bench.pace(0.25)
    bench.pace(0)
    bench.wait_for(prelabel, "done")
    assert bench.output().count("yields after") == 2
    assert bench.output().count("resumes after") == 2
    assert not bench.store.partial.any(prelabel.id)
    whole = bench.ask("the red square", video=Path(shutil.copy(video, video.with_name("copy.mp4"))))
    bench.queue.enqueue(whole)
    bench.wait_for(whole, "done")
    undisturbed, resumed = bench.store.jobs.result(whole.id), bench.store.jobs.result(prelabel.id)
    assert len(resumed.tracks) == len(undisturbed.tracks) == 1
    overlaps = [
        region_similarity(resumed.tracks[0].mask(index), undisturbed.tracks[0].mask(index)) for index in range(FRAMES)
    ]
    assert np.mean(overlaps) > 0.98


def test_a_prelabel_gets_done_although_corrections_keep_coming(bench: Bench, video: Path) -> None:
    bench.engine = "recording_engine:build"
    bench.valkey.start()
    bench.pace(0.1)
    bench.worker(RECORDING=str(bench.folder / "frames.txt"))
    prelabel = bench.ask("the red square")
    bench.queue.enqueue(prelabel)
    bench.wait_for(prelabel, "running")
    deadline, number = time.monotonic() + SECONDS, 0
    while bench.store.jobs.get(prelabel.id).state != "done":
        assert time.monotonic() < deadline, bench.output()
        if not [job for job in bench.store.jobs.newest(state="queued") if job.queue == "interactive"]:
            number += 1
            # In a video that is missing: it fails at once.
            job, _ = bench.store.jobs.add("prelabel", None, None, f"gone-{number}.mp4", "it", "interactive")
            bench.queue.enqueue(job)
        time.sleep(0.05)
    assert number >= 2
