"""The application for label-studio-ml: `gunicorn --threads 16 backend.ml_adapter._wsgi:app`.

The host provides /health. What has a body, /setup, /predict and /webhook, is answered by trajseg's own routes: the host
answers a malformed body with 500 and a traceback, has no limit on its size, and believes a webhook's labelling
configuration. This also adds /versions, /jobs, and the shown frames under /media, which browsers request without
credentials.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from backend.settings import load_settings

# The host creates a cache file on import; keep it with the other data.
os.environ.setdefault("MODEL_DIR", str(load_settings().data_dir / "label-studio-ml"))

from flask import Flask, request
from flask.typing import ResponseReturnValue
from label_studio_ml.api import init_app

from backend.composition import settle
from backend.http import auth, failures, jobs, media
from backend.http import label_studio as routes
from backend.http.app import answer_errors
from backend.logs import redact_logs
from backend.ml_adapter.model import TrajSeg, shared_backend

_backend = shared_backend()
_settings = _backend.settings
app: Flask = init_app(TrajSeg)
redact_logs(_settings)
app.extensions["trajseg"] = _backend.service
app.config["MAX_CONTENT_LENGTH"] = _settings.max_request_bytes
auth.protect(app, _settings)
app.add_url_rule("/versions", view_func=routes.versions)
app.register_blueprint(jobs.blueprint)
app.register_blueprint(failures.blueprint)
app.register_blueprint(media.blueprint)
answer_errors(app)
OWN_ROUTES: dict[str, Callable[[], ResponseReturnValue]] = {
    "/predict": routes.predict,
    "/setup": routes.setup,
    "/webhook": routes.webhook,
}


@app.before_request
def _answer() -> ResponseReturnValue | None:
    own = OWN_ROUTES.get(request.path) if request.method == "POST" else None
    return None if own is None else own()


_backend.reconciler.start()
settle(_settings)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="TrajSeg hosted by label-studio-ml")
    parser.add_argument("--host", default=_settings.host)
    parser.add_argument("--port", type=int, default=_settings.port)
    given = parser.parse_args()
    app.run(host=given.host, port=given.port)
