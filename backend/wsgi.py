"""The application for gunicorn, with the reconciler in the background: `gunicorn --threads 16 backend.wsgi:app`."""

from __future__ import annotations

from backend.composition import compose, settle
from backend.http.app import create_app
from backend.logs import redact_logs
from backend.settings import load_settings

_settings = load_settings()
redact_logs(_settings)
_backend = compose(_settings)
app = create_app(_backend)
_backend.reconciler.start()
settle(_settings)
