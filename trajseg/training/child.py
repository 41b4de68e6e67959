"""A fine-tuning round in its own process: `python -m trajseg.training.child TASK.json LEASE SECONDS`.

So the worker's loaded model is never trained, memory is released at the end, and a crash affects nothing else. The two
processes share only the task's folder:

* progress.json: {"done", "total"}, written here, at most once a second;
* stop: if this file exists, the round ends after the current step, with exit code STOPPED;
* LEASE, a file of the run's own that the worker touches as long as the job is its own. If it does not for SECONDS, the
  round ends in the same way: the worker hangs or was cut off, and another one may have taken the job over;
* lock: held while a round runs here. A second one on the same folder exits with code BUSY;
* decision.json: the gate's, with exit code 0; error.json: {"error", "remedy"}, with exit code FAILED; with exit code
  NOT_STORED {"error"}, if there is room for it: why the disk cannot be written.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from trajseg.errors import TrajSegError
from trajseg.files import not_writable, write_json

PROGRESS, STOP, DECISION, ERROR = "progress.json", "stop", "decision.json", "error.json"
LOCK = "lock"
STOPPED, FAILED, BUSY, NOT_STORED = 3, 4, 5, 6
NICENESS = 10
SECOND = 1.0


class Lease:
    """Whether the worker still has the job; see the module.

    Args:
        file: touched by the worker. Only its changes count, so no two clocks are compared.
        seconds: how long it may stay unchanged.
    """

    def __init__(self, file: Path, seconds: float) -> None:
        self.file, self.seconds = file, seconds
        self._seen, self._since = self._touched(), time.monotonic()

    def is_over(self) -> bool:
        """Call it often: it compares with the last call."""
        touched = self._touched()
        if touched != self._seen:
            self._seen, self._since = touched, time.monotonic()
        return time.monotonic() - self._since > self.seconds

    def _touched(self) -> int:
        try:
            return self.file.stat().st_mtime_ns
        except OSError:
            return 0


def is_running(folder: Path) -> bool:
    """Whether a round runs in a task's folder."""
    try:
        with (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def main(path: Path, lease: Lease) -> int:
    """Runs or resumes the task; returns the exit code."""
    with (path.parent / LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return BUSY
        return _run(path, lease)


def _run(path: Path, lease: Lease) -> int:
    from trajseg.training.round import run_round
    from trajseg.training.round_task import task_from_json

    os.nice(NICENESS)
    folder, last = path.parent, 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= SECOND or done == total:
            last = time.monotonic()
            write_json(folder / PROGRESS, {"done": done, "total": total}, durable=False)

    def stop() -> bool:
        return lease.is_over() or (folder / STOP).exists()

    try:
        task = task_from_json(json.loads(path.read_text(encoding="utf-8")))
        decision = run_round(task, stop, progress)
        if decision is not None:
            write_json(folder / DECISION, decision.to_json())
    except TrajSegError as error:
        write_json(folder / ERROR, {"error": error.message, "remedy": error.remedy})
        return FAILED
    except FloatingPointError as error:
        remedy = "Check the project's newest corrections; a lower rate may help."
        write_json(folder / ERROR, {"error": str(error), "remedy": remedy})
        return FAILED
    except Exception as error:
        if not (reason := not_writable(error)):
            raise
        with suppress(OSError):
            write_json(folder / ERROR, {"error": reason})
        return NOT_STORED
    return STOPPED if decision is None else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Lease(Path(sys.argv[2]), float(sys.argv[3]))))
