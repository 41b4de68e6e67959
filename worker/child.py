"""Runs a program that ends with its parent: `python worker/child.py PARENT_PID PROGRAM ARGUMENT...`.

`spawn` starts such a program in its own session, so that a Ctrl-C in the terminal reaches only the parent, which then
stops its children in order. If the parent is killed, its children are too (on Linux).
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

PR_SET_PDEATHSIG = 1


def spawn(
    command: Sequence[str], environment: Mapping[str, str] | None = None, output: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Starts `command` as a child that gets SIGTERM when this process ends for any reason.

    Call it from the main thread: Linux treats the end of the calling thread as the end of the parent.
    """
    return subprocess.Popen(
        # By its path: a package `worker` in the current folder or on PYTHONPATH must not be taken for this one.
        [sys.executable, "-P", __file__, str(os.getpid()), *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        start_new_session=True,
    )


def stop(child: subprocess.Popen[bytes], *patience: float) -> None:
    """Sends a child SIGTERM once per entry of `patience` (seconds to wait each time), then kills it."""
    for seconds in patience:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(seconds)
            except subprocess.TimeoutExpired:
                continue
    if child.poll() is None:
        child.kill()
        child.wait()


def main(arguments: Sequence[str]) -> None:
    parent, command = int(arguments[0]), list(arguments[1:])
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    # The parent may have died before this line.
    if os.getppid() != parent:
        sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
