"""Ctrl-C ends every long command at once, with one word and no traceback; real processes, and a job in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.worker_bench import SECONDS, Bench

pytestmark = pytest.mark.timeout(400)
CLIP = Path(__file__).parents[1] / "clips" / "yellow_box.mp4"
PROMPT_SECONDS = 4.0
"""Less than two on an idle machine. On a busy one, unloading torch alone takes longer than this."""
COMMANDS = {
    "segment": ["segment", str(CLIP), "the yellow box", "--out", "out"],
    "evaluate": ["evaluate", "--count", "500"],
    "worker": ["worker"],
    "backend": ["backend", "--port", "0"],
}
READY = "the command line is there"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a command; its output is in the file `output`."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        with (tmp_path / "output").open("wb") as output:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    f"from trajseg.cli import main; print({READY!r}, flush=True); main()",
                    *arguments,
                ],
                env={**os.environ, "TRAJSEG_DATA_DIR": str(tmp_path / "data"), "REDIS_URL": "redis://127.0.0.1:9/0"},
                cwd=tmp_path,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # If the tests were started in the background, the signal may be ignored.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def has_torch(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process has loaded torch, which takes long to unload."""
    return "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()


def interrupted(process: subprocess.Popen[bytes]) -> float:
    """Seconds from Ctrl-C to the end."""
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.wait(SECONDS)
    return time.monotonic() - began


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_an_interrupted_start_leaves_one_word(
    name: str, seconds: float, started: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process = started(*COMMANDS[name])
    while READY not in (tmp_path / "output").read_text():
        time.sleep(0.01)
    time.sleep(seconds)
    assert interrupted(process) < PROMPT_SECONDS
    assert "Traceback" not in (tmp_path / "output").read_text()


@pytest.mark.parametrize("name", ["segment", "evaluate"])
def test_a_model_at_work_is_not_unloaded_first(
    name: str, started: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process, deadline = started(*COMMANDS[name]), time.monotonic() + SECONDS
    while not has_torch(process):
        assert process.poll() is None, (tmp_path / "output").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1.0)
    assert interrupted(process) < PROMPT_SECONDS
    assert process.returncode == 130
    assert "Traceback" not in (tmp_path / "output").read_text()


def test_ctrl_c_gives_a_workers_job_back_and_keeps_its_frames(bench: Bench) -> None:
    bench.valkey.start()
    bench.pace(0.2)
    worker, job = bench.worker(), bench.ask("red")
    bench.queue.enqueue(job)
    bench.wait_for(job, "running")
    while bench.store.jobs.get(job.id).frames_done < 4:
        time.sleep(0.05)
    assert interrupted(worker) < PROMPT_SECONDS
    assert worker.returncode == 0
    held = bench.store.jobs.get(job.id)
    assert (held.state, held.runs) == ("queued", 0)
    assert bench.store.partial.any(job.id)
    assert "Traceback" not in bench.output()
