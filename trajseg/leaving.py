"""Leaving a process that was interrupted: at once, without the seconds that Python takes to unload torch."""

from __future__ import annotations

import atexit
import os
import sys
from types import TracebackType
from typing import NoReturn

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 and the signal's number."""


def leave(code: int) -> NoReturn:
    """End this process now. What was registered with atexit runs; everything else must be cleaned up already."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A `sys.excepthook` that says one word about Ctrl-C instead of a traceback."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("Aborted!\n")
        leave(INTERRUPTED)
    sys.__excepthook__(kind, error, trace)
