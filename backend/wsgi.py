"""The application for gunicorn, with the reconciler in the background: `gunicorn --threads 16 backend.wsgi:app`."""

from __future__ import annotations

import logging

from backend.composition import compose, settle
from backend.http.app import create_app
from backend.logs import redact_logs
from backend.settings import load_settings
from trajseg.variables import log_unknown_variables

_settings = load_settings()
redact_logs(_settings)
log_unknown_variables(logging.getLogger("trajseg.backend"))
_backend = compose(_settings)
app = create_app(_backend)
_backend.reconciler.start()
settle(_settings)
