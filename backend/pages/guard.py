"""What keeps the pages to themselves: the headers of every answer, and proof that a POST comes from a page of ours.

A browser sends the password of Basic authentication with every request to this host, also with one that a
stranger's page makes. So what changes something needs a token that only our own pages can read.
"""

from __future__ import annotations

from flask import Response
from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer
from werkzeug.exceptions import Forbidden

from backend.settings import Settings

TOKEN_FIELD = "token"
"""The form field that carries the token."""
TOKEN_SECONDS = 7 * 24 * 3600
"""A page that was open for longer must be loaded again before it can change anything."""
SALT = "trajseg page"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
STRANGERS = frozenset({"cross-site", "same-site"})
"""What a browser says of a request that another host's page made (Fetch Metadata, Sec-Fetch-Site)."""


def new_token(settings: Settings) -> str:
    """What a form of ours carries."""
    return _serializer(settings).dumps("form")


def check_token(settings: Settings, token: str) -> None:
    """Raises Forbidden for a form that does not come from a page of ours."""
    try:
        _serializer(settings).loads(token, max_age=TOKEN_SECONDS)
    except SignatureExpired as error:
        raise Forbidden("This page was open for too long. Load it again.") from error
    except BadSignature as error:
        raise Forbidden("This request does not come from a page of this backend. Load the page again.") from error


def refuse_strangers(method: str, fetch_site: str | None) -> None:
    """Raises Forbidden where the browser itself says that another site's page wants to change something.

    Args:
        fetch_site: the header Sec-Fetch-Site; browsers leave it out where there is no TLS, and programs always.
    """
    if method not in SAFE_METHODS and fetch_site in STRANGERS:
        raise Forbidden("This request was made by a page of another site.")


def seal(answer: Response, media_origin: str = "") -> Response:
    """Everything comes from here, no script stands in the page, and nobody may frame it.

    Args:
        media_origin: scheme and host that the page's video is played from, where that is not this backend.
    """
    media = f"'self' {media_origin}".strip()
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        f"media-src {media}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    answer.headers.setdefault("Content-Security-Policy", policy)
    answer.headers.setdefault("X-Content-Type-Options", "nosniff")
    answer.headers.setdefault("Referrer-Policy", "same-origin")
    answer.headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
    answer.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    return answer


def _serializer(settings: Settings) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(settings.signing_key(), salt=SALT)
