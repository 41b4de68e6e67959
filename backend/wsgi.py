"""The application for gunicorn, with the reconciler beside it: `gunicorn --threads 16 backend.wsgi:app`."""

from __future__ import annotations

from backend.http.app import create_app
from backend.label_studio.incoming.reading import AnnotationReader
from backend.label_studio.outgoing.delivery import deliverer
from backend.reconcile import Reconciler

app = create_app()
_service = app.extensions["trajseg"]
_reconciler = Reconciler(
    _service.store,
    _service.queue,
    _service.settings,
    deliverer(_service.store, _service.settings),
    AnnotationReader(_service.store, _service.settings),
)
_service.hinted = _reconciler.wake
_reconciler.start()
