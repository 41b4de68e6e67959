"""The process of a fine-tuning round: one at a time in a folder, only while its worker has the job, and a full disk."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trajseg.files import not_writable
from trajseg.training import child
from trajseg.training import round as rounds
from trajseg.training.child import BUSY, DECISION, ERROR, LOCK, NOT_STORED, STOPPED, Lease, is_running
from trajseg.training.gate import GateDecision
from trajseg.training.round_task import RoundTask, task_to_json
from trajseg.training.run import Schedule, train

DECIDED = GateDecision(False, "Not promoted.")
Round = Callable[[RoundTask, Callable[[], bool], Callable[[int, int], None]], GateDecision | None]


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """The file of a task in a folder of its own."""
    path = tmp_path / "work" / "task.json"
    path.parent.mkdir()
    path.write_text(json.dumps(task_to_json(RoundTask("trajseg-tiny", "c", "w", "t", "v"))))
    return path


@pytest.fixture
def doing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Round], None]:
    """Replaces the round; the process keeps its priority."""
    monkeypatch.setattr(os, "nice", lambda _by: 0)
    return lambda does: monkeypatch.setattr(rounds, "run_round", does)


def lease(task: Path, seconds: float = 60.0) -> Lease:
    file = task.parent / "lease-1"
    file.touch()
    return Lease(file, seconds)


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond `limit` bytes, like on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_second_round_in_a_folder_is_refused_while_the_first_one_runs(task: Path, doing: Any) -> None:
    """As of a worker that was cut off, whose job another one took over."""

    def first(*_: Any) -> GateDecision:
        assert is_running(task.parent)
        assert child.main(task, lease(task)) == BUSY
        return DECIDED

    assert not is_running(task.parent)
    doing(first)
    assert child.main(task, lease(task)) == 0
    assert not is_running(task.parent)
    assert json.loads((task.parent / DECISION).read_text())["reason"] == "Not promoted."


def test_the_lock_of_a_killed_round_is_free(task: Path) -> None:
    killed = os.fork()
    if killed == 0:
        with (task.parent / LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (task.parent / "held").touch()
            time.sleep(600)
    try:
        deadline = time.monotonic() + 60
        while not (task.parent / "held").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert is_running(task.parent)
    finally:
        os.kill(killed, signal.SIGKILL)
        os.waitpid(killed, 0)
    assert not is_running(task.parent)


def test_a_round_ends_when_its_worker_no_longer_has_the_job(task: Path, doing: Any) -> None:
    steps: list[int] = []

    def steady(_task: RoundTask, stop: Callable[[], bool], _progress: Any) -> GateDecision | None:
        for step in range(2000):
            if stop():
                return None
            steps.append(step)
            if step < 40:
                # The worker is alive for these steps, which take longer than the lease.
                os.utime(task.parent / "lease-1", ns=(step, step))
            time.sleep(0.02)
        return DECIDED

    doing(steady)
    assert child.main(task, lease(task, seconds=0.5)) == STOPPED
    assert 40 <= len(steps) < 2000


def test_a_step_that_takes_longer_than_the_lease_does_not_end_the_round(task: Path) -> None:
    held = lease(task, seconds=0.2)
    time.sleep(0.3)
    os.utime(task.parent / "lease-1", ns=(1, 1))
    assert not held.is_over()
    time.sleep(0.3)
    assert held.is_over()


def test_a_full_disk_has_its_own_exit_code_and_says_why(task: Path, doing: Any) -> None:
    def full(*_: Any) -> GateDecision:
        with (task.parent / "large").open("wb") as file:
            file.write(bytes(10_000))
        return DECIDED

    doing(full)
    with small_files(5_000):
        assert child.main(task, lease(task)) == NOT_STORED
    assert json.loads((task.parent / ERROR).read_text()) == {"error": "File too large"}


def test_a_full_disk_needs_no_room_to_be_reported(task: Path, doing: Any) -> None:
    doing(lambda *_: DECIDED)
    with small_files(0):
        assert child.main(task, lease(task)) == NOT_STORED
    assert not (task.parent / ERROR).exists()


def test_a_state_that_does_not_fit_on_the_disk_leaves_the_last_one(tmp_path: Path) -> None:
    module = nn.Linear(100, 100)

    def loss(part: Any) -> Any:
        return module(torch.ones(1, 100)).square().mean(), {}

    train(tmp_path, module, loss, Schedule(steps=4, warmup=1), stop=iter([False, True]).__next__)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)["step"]
    assert saved == 1
    with small_files(20_000), pytest.raises(RuntimeError) as refused:
        train(tmp_path, module, loss, Schedule(steps=4, warmup=1))
    assert not_writable(refused.value) == "File too large"
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == saved
    assert not list(tmp_path.glob(".*part*"))
