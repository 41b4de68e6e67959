"""Ends an interrupted process at once, without the seconds that Python takes to unload torch."""

from __future__ import annotations

import atexit
import os
import sys
from types import TracebackType
from typing import NoReturn

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells: 128 plus the signal's number."""


def leave(code: int) -> NoReturn:
    """Ends this process now. Runs atexit handlers; everything else must already be cleaned up."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A `sys.excepthook` that prints one word on Ctrl-C instead of a traceback."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("Aborted!\n")
        leave(INTERRUPTED)
    sys.__excepthook__(kind, error, trace)
