"""The application for gunicorn, with the reconciler beside it: `gunicorn --threads 16 backend.wsgi:app`."""

from __future__ import annotations

from backend.composition import compose
from backend.http.app import create_app

_backend = compose()
app = create_app(_backend)
_backend.reconciler.start()
