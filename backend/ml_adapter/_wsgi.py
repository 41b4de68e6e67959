"""The application that label-studio-ml's users start: `gunicorn backend.ml_adapter._wsgi:app`."""

from __future__ import annotations

import argparse
import os

from backend.settings import Settings

# The host keeps a cache file where it is imported; ours belongs with the other data.
os.environ.setdefault("MODEL_DIR", str(Settings().data_dir / "label-studio-ml"))

from label_studio_ml.api import init_app

from backend.label_studio.delivery import deliverer
from backend.ml_adapter.model import TrajSeg, shared_service
from backend.reconcile import Reconciler

_service = shared_service()
_settings = _service.settings
reconciler = Reconciler(_service.store, _service.queue, _settings, deliverer(_service.store, _settings))
reconciler.start()
app = init_app(
    TrajSeg,
    basic_auth_user=_settings.basic_auth_user or None,
    basic_auth_pass=_settings.basic_auth_password.get_secret_value() or None,
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="TrajSeg hosted by label-studio-ml")
    parser.add_argument("--host", default=_settings.host)
    parser.add_argument("--port", type=int, default=_settings.port)
    given = parser.parse_args()
    app.run(host=given.host, port=given.port)
