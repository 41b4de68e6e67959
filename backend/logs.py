"""Log lines without secrets."""

from __future__ import annotations

import logging

from backend.settings import Settings


class RedactingFormatter(logging.Formatter):
    """Formats a record, its traceback too, and takes the secrets of the settings out of it."""

    def __init__(self, settings: Settings, form: str, date_form: str | None = None) -> None:
        super().__init__(form, date_form)
        self._settings = settings

    def format(self, record: logging.LogRecord) -> str:
        """The line as `logging` would write it, redacted."""
        return self._settings.redact(super().format(record))


def log_to_stderr(settings: Settings, form: str, level: int, date_form: str | None = None) -> None:
    """Send the log of this process to stderr, once."""
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter(settings, form, date_form))
    logging.basicConfig(level=level, handlers=[handler])
