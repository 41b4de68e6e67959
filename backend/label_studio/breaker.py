"""Circuit breaker: while a Label Studio is failing, only occasional probes are sent to it."""

from __future__ import annotations

import logging
import threading
import time

log = logging.getLogger("trajseg.delivery")

FIRST_PAUSE_SECONDS = 5.0
"""Pause after the first failure; it doubles with each failed probe."""
LONGEST_PAUSE_SECONDS = 60.0
"""Longest pause, so everything pending is delivered within a minute of Label Studio's return."""


class CircuitBreaker:
    """Closed while Label Studio answers, open from a transient failure to the next success. Safe between threads.

    Attributes:
        reason: why it is open; empty while closed.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._lock = threading.Lock()
        self._pause = 0.0
        self._probe_at = 0.0

    @property
    def open(self) -> bool:
        """Whether the last request to Label Studio failed."""
        return bool(self.reason)

    def allows(self) -> bool:
        """Whether a request may be made now. While open, one caller is let through after each pause."""
        with self._lock:
            if not self.reason:
                return True
            if time.monotonic() < self._probe_at:
                return False
            self._probe_at = time.monotonic() + self._pause
            return True

    def failed(self, reason: str, retry_after: float | None = None) -> None:
        """A request failed for a reason that affects Label Studio as a whole.

        Args:
            retry_after: seconds Label Studio asked to wait.
        """
        with self._lock:
            if not self.reason:
                log.warning("pausing requests to Label Studio: %s", reason)
            self._pause = min(max(self._pause * 2, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            self._probe_at = time.monotonic() + max(self._pause, retry_after or 0.0)
            self.reason = reason or "it failed"

    def succeeded(self) -> bool:
        """A request was answered. Returns True if the breaker was open, so pending work can be sent at once."""
        with self._lock:
            was_open, self.reason, self._pause = bool(self.reason), "", 0.0
        if was_open:
            log.info("Label Studio is back")
        return was_open
