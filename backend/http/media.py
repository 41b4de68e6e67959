"""Shown frames for the browser: signed links to files of the media folder, readable across origins."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from flask import Blueprint, Response, current_app, send_from_directory
from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer
from werkzeug.exceptions import Forbidden, Gone, NotFound

from backend.settings import Settings
from trajseg.errors import InputError

if TYPE_CHECKING:
    from backend.service.service import Service

blueprint = Blueprint("media", __name__)
SALT = "trajseg media"
LINK = re.compile(r"/media/(?P<token>[A-Za-z0-9_.-]+)/[^/?#]+$")


def media_url(settings: Settings, relative_path: str) -> str:
    """A link that a browser may open without credentials until it expires.

    Args:
        relative_path: of a file below `settings.media_dir`, such as "<job id>/000015.jpg".

    Raises InputError for a path outside that folder.
    """
    path = PurePosixPath(relative_path)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise InputError(
            f"{relative_path!r} is not a path below the media folder.", "Use the link that trajseg wrote into the task."
        )
    token = _serializer(settings).dumps(str(path))
    return f"{settings.external_url}/media/{token}/{quote(path.name)}"


def renewed(settings: Settings, url: str) -> str | None:
    """The same link, signed now; None for an address not signed with this backend's key."""
    match = LINK.search(url)
    if match is None:
        return None
    try:
        # Its age does not matter: only this backend can have signed it.
        return media_url(settings, str(_serializer(settings).loads(match["token"])))
    except (BadSignature, InputError):
        return None


@blueprint.route("/media/<token>/<name>", provide_automatic_options=False)
def file(token: str, name: str) -> Response:
    """The file that the token names; supports ranges and conditional requests."""
    service: Service = current_app.extensions["trajseg"]
    settings = service.settings
    try:
        path = _serializer(settings).loads(token, max_age=int(settings.media_link_hours * 3600))
    except SignatureExpired as error:
        job_id = PurePosixPath(str(_serializer(settings).loads(token))).parts[0]
        service.store.pictures.hurry(job_id=job_id)
        raise Gone("This link has expired. Its task gets a new one: open the task again in a minute.") from error
    except BadSignature as error:
        raise Forbidden("This link was not signed by this backend.") from error
    if PurePosixPath(path).name != name:
        raise NotFound("There is no such file.")
    answer = send_from_directory(settings.media_dir.resolve(), path, conditional=True)
    # Revalidated (304) each time a page is opened: this is how an opening is noticed.
    answer.headers["Cache-Control"] = "private, no-cache"
    # label-studio-ml as a host buffers every answer; a picture is small enough for that.
    answer.direct_passthrough = False
    current_app.extensions["trajseg"].openings.seen(PurePosixPath(path).parts[0])
    return _shared(answer, settings)


@blueprint.route("/media/<token>/<name>", methods=["OPTIONS"])
def preflight(token: str, name: str) -> Response:
    """Answers a browser's preflight request before it reads a file across origins."""
    answer = _shared(Response(status=204), current_app.extensions["trajseg"].settings)
    answer.headers["Access-Control-Allow-Methods"] = "GET, HEAD, OPTIONS"
    answer.headers["Access-Control-Allow-Headers"] = "Range"
    answer.headers["Access-Control-Max-Age"] = "86400"
    return answer


def _shared(answer: Response, settings: Settings) -> Response:
    # Label Studio draws the picture on a canvas and reads pixels back: without CORS the canvas is tainted.
    answer.headers["Access-Control-Allow-Origin"] = settings.cors_origins
    if settings.cors_origins != "*":
        answer.headers["Vary"] = "Origin"
    answer.headers["Access-Control-Expose-Headers"] = "Accept-Ranges, Content-Length, Content-Range, ETag"
    answer.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    answer.headers["X-Content-Type-Options"] = "nosniff"
    return answer


def _serializer(settings: Settings) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(settings.signing_key(), salt=SALT)
