"""Ctrl-C while libraries are loaded, some of which swallow it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from trajseg.leaving import INTERRUPTED, leaves_on_interrupt

SWALLOWS = """
import atexit, os, signal
from trajseg.leaving import leaves_on_interrupt
atexit.register(print, "tidied", flush=True)
with leaves_on_interrupt():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
    except BaseException:
        pass
print("went on", flush=True)
"""


def test_an_interrupt_that_a_library_would_swallow_ends_the_process() -> None:
    ended = subprocess.run([sys.executable, "-c", SWALLOWS], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (INTERRUPTED, "tidied\n", "Aborted!\n")


def test_afterwards_an_interrupt_is_an_exception_again() -> None:
    with leaves_on_interrupt():
        pass
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_another_handler_and_other_threads_are_left_alone() -> None:
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        with leaves_on_interrupt():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught == [signal.SIGINT]

    def elsewhere() -> None:
        with leaves_on_interrupt():
            caught.append(0)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert caught == [signal.SIGINT, 0]
    assert signal.getsignal(signal.SIGINT) is before
