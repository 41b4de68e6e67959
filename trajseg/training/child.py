"""A fine-tuning round in its own process: `python -m trajseg.training.child TASK.json`, started by a worker.

So the worker's loaded model is never trained, memory is released at the end, and a crash affects nothing else. The two
processes share only the task's folder:

* progress.json: {"done", "total"}, written here, at most once a second;
* stop: if this file exists, the round ends after the current step, with exit code STOPPED;
* decision.json: the gate's, with exit code 0; error.json: {"error", "remedy"}, with exit code FAILED.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from trajseg.errors import TrajSegError
from trajseg.files import write_json

PROGRESS, STOP, DECISION, ERROR = "progress.json", "stop", "decision.json", "error.json"
STOPPED, FAILED = 3, 4
NICENESS = 10
SECOND = 1.0


def main(path: Path) -> int:
    """Runs or resumes the task; returns the exit code."""
    from trajseg.training.round import run_round, task_from_json

    os.nice(NICENESS)
    folder, last = path.parent, 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= SECOND or done == total:
            last = time.monotonic()
            write_json(folder / PROGRESS, {"done": done, "total": total})

    try:
        task = task_from_json(json.loads(path.read_text(encoding="utf-8")))
        decision = run_round(task, (folder / STOP).exists, progress)
    except TrajSegError as error:
        write_json(folder / ERROR, {"error": error.message, "remedy": error.remedy})
        return FAILED
    except FloatingPointError as error:
        remedy = "Check the project's newest corrections; a lower rate may help."
        write_json(folder / ERROR, {"error": str(error), "remedy": remedy})
        return FAILED
    if decision is None:
        return STOPPED
    write_json(folder / DECISION, decision.to_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
