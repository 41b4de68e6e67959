"""Ends an interrupted process at once, without the seconds that Python takes to unload torch."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn

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
        _abort()
    sys.__excepthook__(kind, error, trace)


@contextmanager
def leaves_on_interrupt() -> Iterator[None]:
    """While this context lasts, Ctrl-C ends the process at once instead of raising KeyboardInterrupt.

    For imports and the loading of a model, when there is nothing to clean up: libraries' native code swallows an
    exception there now and then, and the command would go on. It changes nothing if another handler is installed, or
    in a thread that receives no signals.
    """
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _abort)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _abort(*_: Any) -> NoReturn:
    sys.stderr.write("Aborted!\n")
    leave(INTERRUPTED)
