"""A loop: something that is done again and again in a thread of its own, whatever happens."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger("trajseg.loop")


class Loop:
    """Calls `turn` every so many seconds, from `start` to `stop`; what it raises is logged.

    Attributes:
        failures: turns that raised.
    """

    def __init__(self, name: str, turn: Callable[[], object], seconds: float) -> None:
        self.name = name
        self.failures = 0
        self._turn = turn
        self._seconds = seconds
        self._stopped = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin, with a first turn at once."""
        self._thread.start()

    def wake(self) -> None:
        """Have the next turn at once."""
        self._woken.set()

    def stop(self, seconds: float = 10.0) -> None:
        """End after the turn that is under way, or leave it to itself after so many seconds."""
        self._stopped.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(timeout=seconds)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._woken.clear()
            try:
                self._turn()
            except Exception:
                # Whatever it was, the next turn must come.
                self.failures += 1
                log.exception("%s: a turn failed", self.name)
            self._woken.wait(self._seconds)
