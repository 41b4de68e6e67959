"""Access control: Host header, Basic authentication (all that Label Studio can send), and the job API's token."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, g, jsonify, request
from werkzeug.middleware.proxy_fix import ProxyFix

from backend.http.guesses import GuessLimiter
from backend.http.headers import drop_unreadable
from backend.http.hosts import AllowedHosts, is_loopback
from backend.settings import Settings
from trajseg.errors import InputError

OPEN_ENDPOINTS = frozenset(
    {"service.health", "service.ready", "health", "media.file", "media.preflight", "pages.video"}
)
"""Open paths: health (also under label-studio-ml's name) for monitoring; links to files are signed."""
TOKEN_BLUEPRINTS = frozenset({"jobs", "failures", "exports", "metrics", "openapi"})
"""Paths for programs: the token opens these without a password."""
SECRET_HEADER = "X-Trajseg-Secret"
LARGEST_TRAINING_REQUEST = 2**21
"""Bytes; large enough for a project with its labelling configuration."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
WAIT = "Too many wrong passwords or tokens from this address: wait {seconds} s."
WAIT_REMEDY = "Behind a proxy all clients have the proxy's address: set TRAJSEG_PROXIES to count clients separately."
NO_PASSWORD = "Set TRAJSEG_BASIC_AUTH_USER and TRAJSEG_BASIC_AUTH_PASSWORD, and give Label Studio the same."


def require_password(settings: Settings, addresses: list[str]) -> None:
    """Raises InputError if the backend would listen on one of these IP addresses without a password.

    Without a password it serves this machine only.
    """
    if settings.basic_auth_user:
        return
    exposed = [address for address in addresses if not is_loopback(address)]
    if exposed:
        raise InputError(
            f"The backend would listen on {exposed[0]} without a password, open to anyone who can reach that address.",
            f"{NO_PASSWORD} Or listen on this machine only: TRAJSEG_HOST=127.0.0.1.",
        )


def protect(app: Flask, settings: Settings) -> None:
    """Rejects other host names, and requires the user name and password of the settings.

    Without a password only this machine is served, whichever server hosts the application.

    Raises InputError if only one of user name and password is set: the service must not merely look protected.
    """
    user, password = settings.basic_auth_user, settings.basic_auth_password.get_secret_value()
    if bool(user) != bool(password):
        raise InputError(
            "Only one of TRAJSEG_BASIC_AUTH_USER and TRAJSEG_BASIC_AUTH_PASSWORD is set.",
            "Set both, or neither.",
        )
    if settings.proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=settings.proxies, x_proto=0, x_host=0)  # type: ignore[method-assign]
    secret = settings.webhook_secret.get_secret_value()
    hosts, limiter = AllowedHosts(settings), GuessLimiter()

    @app.before_request
    def check() -> Response | None:
        drop_unreadable(request.environ)
        # A browser always sends a host; a client that does not is not a browser.
        named = request.environ.get("HTTP_HOST")
        if named is not None and not hosts.allows(named):
            return _answer(
                400,
                f"The host name {named[:100]!r} does not belong to this backend.",
                "Add it to TRAJSEG_ALLOWED_HOSTS, or set TRAJSEG_PUBLIC_URL to the address in use.",
            )
        if request.endpoint in OPEN_ENDPOINTS:
            return None
        if secret and request.path == "/webhook" and (refused := _without_secret(limiter, secret, bool(user))):
            return refused
        given = request.authorization
        if given is not None and given.type == "bearer" and request.blueprint in TOKEN_BLUEPRINTS:
            refused = _guess(limiter, lambda: _same(given.token or "", settings.job_token()))
            g.token_is_right = refused is None
            return refused
        if not user:
            return None if is_loopback(_peer()) else _answer(403, "This backend has no password.", NO_PASSWORD)
        if given is None or given.type != "basic":
            return _unauthorized()
        # Both are always compared, so that timing reveals nothing.
        return _guess(limiter, lambda: bool(_same(given.username or "", user) & _same(given.password or "", password)))

    @app.after_request
    def declare_type(answer: Response) -> Response:
        """Browsers must not guess another type: an answer may quote what a task says."""
        answer.headers.setdefault("X-Content-Type-Options", "nosniff")
        return answer


def refuse_without_token() -> Response | None:
    """The refusal for a changing request without the job API's token; None if it may proceed.

    A browser adds a person's password even to requests made by another site's page, so a password proves nothing here
    unless the browser says that the request comes from one of this backend's own pages (Sec-Fetch-Site).
    """
    if request.method in SAFE_METHODS or g.get("token_is_right"):
        return None
    if request.headers.get("Sec-Fetch-Site") == "same-origin":
        return None
    return _answer(
        403,
        "This request changes a job and lacks the token of the job API.",
        "Send the header `Authorization: Bearer TOKEN`; `trajseg token` prints the token.",
    )


def _without_secret(limiter: GuessLimiter, secret: str, has_password: bool) -> Response | None:
    """The refusal for a notice without the secret; None if it has the secret.

    Label Studio's button Start Training uses this route too, with the password but without a webhook's headers.
    """
    given = request.headers.get(SECRET_HEADER)
    if given is not None:
        return _guess(limiter, lambda: _same(given, secret))
    if has_password and (request.content_length or 0) <= LARGEST_TRAINING_REQUEST:
        body = request.get_json(silent=True)
        if isinstance(body, dict) and body.get("action") == "START_TRAINING":
            return None
    return _answer(
        403,
        f"This notice lacks the header {SECRET_HEADER}.",
        "Add it to the project's webhook in Label Studio, with the value of TRAJSEG_WEBHOOK_SECRET; "
        "`trajseg doctor --project N` checks this.",
    )


def _guess(limiter: GuessLimiter, right: Callable[[], bool]) -> Response | None:
    """None if the guess is right, else the answer to it."""
    attempt = limiter.attempt(request.remote_addr or "", right)
    if attempt.right:
        return None
    if attempt.wait_seconds:
        seconds = math.ceil(attempt.wait_seconds)
        answer = _answer(429, WAIT.format(seconds=seconds), WAIT_REMEDY)
        answer.headers["Retry-After"] = str(seconds)
        return answer
    return _unauthorized()


def _unauthorized() -> Response:
    answer = _answer(
        401,
        "User name and password are missing or wrong.",
        "Give them in Label Studio's model settings under Basic authentication.",
    )
    answer.headers["WWW-Authenticate"] = 'Basic realm="trajseg"'
    return answer


def _answer(status: int, error: str, remedy: str) -> Response:
    answer: Response = jsonify(error=error, remedy=remedy)
    answer.status_code = status
    return answer


def _peer() -> str:
    """The address at the other end of the connection, ignoring what a proxy says about its client."""
    before: dict[str, Any] = request.environ.get("werkzeug.proxy_fix.orig") or request.environ
    return str(before.get("REMOTE_ADDR") or "")


def _same(given: str, wanted: str) -> bool:
    """Whether two secrets are equal; compares digests, so that timing does not even reveal the length."""
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in (given, wanted)]
    return hmac.compare_digest(*digests)
