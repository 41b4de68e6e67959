"""A loop: calls a function periodically in its own thread, whatever happens."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger("trajseg.loop")


class Loop:
    """Calls `turn` every `seconds` from `start` to `stop`; exceptions are logged.

    Attributes:
        failures: calls that raised.
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
        """Starts, with a first call at once."""
        self._thread.start()

    def wake(self) -> None:
        """Triggers the next call at once."""
        self._woken.set()

    def stop(self, seconds: float = 10.0) -> None:
        """Stops after the current call, or abandons it after `seconds`."""
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
                # Whatever went wrong, the loop must continue.
                self.failures += 1
                log.exception("%s: a turn failed", self.name)
            self._woken.wait(self._seconds)
