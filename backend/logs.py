"""Log lines without secrets, as text or as JSON with the id of the job that they are about."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from backend.settings import Settings

_NAMED_JOB = re.compile(r"\bjob ([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\b")
_job: ContextVar[str] = ContextVar("job", default="")


@contextmanager
def logged_job(job_id: str) -> Iterator[None]:
    """What this thread logs meanwhile is about this job."""
    token = _job.set(job_id)
    try:
        yield
    finally:
        _job.reset(token)


class RedactingFormatter(logging.Formatter):
    """Formats a record, its traceback too, and takes the secrets of the settings out of it."""

    def __init__(self, settings: Settings, form: str, date_form: str | None = None) -> None:
        super().__init__(form, date_form)
        self._settings = settings

    def format(self, record: logging.LogRecord) -> str:
        """The line as `logging` would write it, redacted."""
        return self._settings.redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON, redacted: time (ISO 8601, UTC), level, logger, message, job, traceback."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    def format(self, record: logging.LogRecord) -> str:
        """The line; `job` is the one that the message names, else the one at hand; left out where there is none."""
        message = record.getMessage()
        # Deliveries are made in a thread of their own, and name their job.
        named = _NAMED_JOB.search(message)
        form = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": self._settings.redact(message),
            "job": named[1] if named else _job.get(),
            "traceback": self._settings.redact(self.formatException(record.exc_info)) if record.exc_info else "",
        }
        return json.dumps({name: value for name, value in form.items() if value}, ensure_ascii=False)


def log_to_stderr(settings: Settings, form: str, level: int, date_form: str | None = None) -> None:
    """Send the log of this process to stderr, once; as JSON where the settings say so, else in this form."""
    handler = logging.StreamHandler()
    json_lines = settings.log_format == "json"
    handler.setFormatter(JsonFormatter(settings) if json_lines else RedactingFormatter(settings, form, date_form))
    logging.basicConfig(level=level, handlers=[handler])
