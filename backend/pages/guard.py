"""Protection of the pages: security headers on every answer, and proof that a POST comes from one of our pages.

A browser sends the Basic authentication password with every request to this host, even one made by another site's
page. So every change requires a token that only our own pages can read.
"""

from __future__ import annotations

from flask import Response
from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer
from werkzeug.exceptions import Forbidden

from backend.settings import Settings

TOKEN_FIELD = "token"
"""The form field that carries the token."""
TOKEN_SECONDS = 7 * 24 * 3600
"""A page that was open for longer must be reloaded before it can change anything."""
SALT = "trajseg page"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
STRANGERS = frozenset({"cross-site", "same-site"})
"""Values of Sec-Fetch-Site (Fetch Metadata) for a request made by another host's page."""


def new_token(settings: Settings) -> str:
    """The token for our forms."""
    return _serializer(settings).dumps("form")


def check_token(settings: Settings, token: str) -> None:
    """Raises Forbidden for a form that does not come from one of our pages."""
    try:
        _serializer(settings).loads(token, max_age=TOKEN_SECONDS)
    except SignatureExpired as error:
        raise Forbidden("This page has been open for too long. Reload it.") from error
    except BadSignature as error:
        raise Forbidden("This request does not come from a page of this backend. Reload the page.") from error


def refuse_strangers(method: str, fetch_site: str | None) -> None:
    """Raises Forbidden if the browser says that another site's page wants to change something.

    Args:
        fetch_site: the header Sec-Fetch-Site; browsers omit it without TLS, and programs always do.
    """
    if method not in SAFE_METHODS and fetch_site in STRANGERS:
        raise Forbidden("This request was made by a page of another site.")


def seal(answer: Response, media_origin: str = "") -> Response:
    """Sets the policy: all content from this host, no inline scripts, no framing.

    Args:
        media_origin: scheme and host of the page's video, if that is not this backend.
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
