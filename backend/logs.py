"""Log lines, tracebacks and messages without secrets, under every host of the backend; as text, or as JSON with job."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType

from backend.settings import Settings

HOSTS = ("", "gunicorn.error", "gunicorn.access", "waitress", "werkzeug", "rq.worker", "label_studio_ml")
"""Loggers to which a host may have added handlers; the first is the root."""
_NAMED_JOB = re.compile(r"\bjob ([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\b")
_job: ContextVar[str] = ContextVar("job", default="")


@contextmanager
def logged_job(job_id: str) -> Iterator[None]:
    """Everything that this thread logs inside is attributed to this job."""
    token = _job.set(job_id)
    try:
        yield
    finally:
        _job.reset(token)


class RedactingFormatter(logging.Formatter):
    """Formats a record with its traceback, and removes the secrets of the settings.

    Args:
        inner: formats the line; built from `form` and `date_form` by default, with its time in UTC.
    """

    @staticmethod
    def converter(seconds: float | None) -> time.struct_time:
        """The parts of a record's time."""
        return time.gmtime(seconds)

    def __init__(
        self,
        settings: Settings,
        form: str | None = None,
        date_form: str | None = None,
        inner: logging.Formatter | None = None,
    ) -> None:
        super().__init__(form, date_form)
        self._settings = settings
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """The line as `logging` would write it, redacted."""
        return self._settings.redact(self._inner.format(record) if self._inner else super().format(record))


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON, redacted: time (ISO 8601, UTC), level, logger, message, job, traceback."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    def format(self, record: logging.LogRecord) -> str:
        """The line; `job` is the job named in the message, else the current one; omitted if there is none."""
        message = record.getMessage()
        # Deliveries run in a thread of their own, and name their job.
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
    """Sends this process's log to stderr, once: as JSON if the settings say so, else in this format.

    A fatal error is redacted too; see `redact_logs`.
    """
    handler = logging.StreamHandler()
    json_lines = settings.log_format == "json"
    handler.setFormatter(JsonFormatter(settings) if json_lines else RedactingFormatter(settings, form, date_form))
    logging.basicConfig(level=level, handlers=[handler])
    redact_logs(settings)


def redact_logs(settings: Settings) -> None:
    """Removes secrets from everything this process logs, including through its host's handlers, and from fatal errors.

    Without any handler, warnings go to stderr through logging's last resort, which is covered too.
    """
    handlers = {handler for name in HOSTS for handler in logging.getLogger(name).handlers}
    if logging.lastResort is not None:
        handlers.add(logging.lastResort)
    for handler in handlers:
        if not isinstance(handler.formatter, RedactingFormatter | JsonFormatter):
            handler.setFormatter(RedactingFormatter(settings, inner=handler.formatter or logging.Formatter()))

    before = sys.excepthook

    def log_exception(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            before(kind, error, trace)  # type: ignore[arg-type]
            return
        sys.stderr.write(settings.redact("".join(traceback.format_exception(kind, error, trace))))

    def log_thread_exception(unforeseen: threading.ExceptHookArgs) -> None:
        if unforeseen.exc_type is not SystemExit:
            log_exception(unforeseen.exc_type, unforeseen.exc_value, unforeseen.exc_traceback)

    sys.excepthook, threading.excepthook = log_exception, log_thread_exception
