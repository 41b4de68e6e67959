"""Locks: a file that one process at a time holds."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.private import private_folder
from trajseg.errors import InputError


@contextmanager
def held_alone(path: Path, busy: str, remedy: str) -> Iterator[None]:
    """Holds the lock on a file, which is created if missing; the lock of a killed process disappears with it.

    Args:
        busy: the error's message if another process holds it; `{process}` stands for its id.
        remedy: of that error.

    Raises:
        InputError: another process holds it.
    """
    private_folder(path.parent)
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise InputError(busy.replace("{process}", lock.read().strip()), remedy) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
