"""Who may ask: Host header, Basic authentication (all that Label Studio can send), and the token of the job API."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, g, jsonify, request
from werkzeug.middleware.proxy_fix import ProxyFix

from backend.http.guesses import GuessLimiter
from backend.http.hosts import AllowedHosts, is_loopback
from backend.settings import Settings
from trajseg.errors import InputError

OPEN_ENDPOINTS = frozenset(
    {"service.health", "service.ready", "health", "media.file", "media.preflight", "pages.video"}
)
"""Health (also as label-studio-ml names it) is asked by everything that watches; links to files are signed."""
TOKEN_BLUEPRINTS = frozenset({"jobs", "failures", "exports", "metrics", "openapi"})
"""What programs use: the token opens these without a password."""
SECRET_HEADER = "X-Trajseg-Secret"
LARGEST_TRAINING_REQUEST = 2**21
"""Bytes; it holds the project with its labelling configuration."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
WAIT = "Too many wrong passwords or tokens came from this address: wait {seconds} s."
WAIT_REMEDY = (
    "Behind a proxy all clients have the proxy's address: set TRAJSEG_PROXIES, so that each one is counted by itself."
)
NO_PASSWORD = "Set TRAJSEG_BASIC_AUTH_USER and TRAJSEG_BASIC_AUTH_PASSWORD, and give Label Studio the same."


def require_password(settings: Settings, addresses: list[str]) -> None:
    """Raises InputError where the backend is to listen on one of these IP addresses without a password.

    Without one it answers this machine alone.
    """
    if settings.basic_auth_user:
        return
    exposed = [address for address in addresses if not is_loopback(address)]
    if exposed:
        raise InputError(
            f"The backend would listen on {exposed[0]} without a password, for everybody who reaches that address.",
            f"{NO_PASSWORD} Or listen on this machine alone: TRAJSEG_HOST=127.0.0.1.",
        )


def protect(app: Flask, settings: Settings) -> None:
    """Refuse other host names, and ask for the user name and password of the settings.

    Without a password only this machine is answered, whichever server hosts the application.

    Raises InputError when only one of user name and password is set: a service that looks protected must be.
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
        # A browser always names a host; an old client that does not is no browser.
        named = request.environ.get("HTTP_HOST")
        if named is not None and not hosts.allows(named):
            return _answer(
                400,
                f"The host name {named[:100]!r} is none of this backend's.",
                "Add it to TRAJSEG_ALLOWED_HOSTS, or set TRAJSEG_PUBLIC_URL to the address that is used.",
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
        # Both are compared, whatever the first one gives.
        return _guess(limiter, lambda: bool(_same(given.username or "", user) & _same(given.password or "", password)))


def refuse_without_token() -> Response | None:
    """The answer to a request that changes something without the token of the job API; None where it may go on.

    A browser adds a person's password to what a stranger's page sends. So a password proves nothing here, except
    where the browser itself says that one of this backend's own pages asks (Fetch Metadata, Sec-Fetch-Site).
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
    """The answer to a notice without the secret; None for one that has it.

    Label Studio's button Start Training comes here too, with the password, but never with a webhook's headers.
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
        "`trajseg doctor --project N` says whether it is there.",
    )


def _guess(limiter: GuessLimiter, right: Callable[[], bool]) -> Response | None:
    """None where the guess is right, else the answer to it."""
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
    """The address at the other end of the connection, whatever a proxy says of its client."""
    before: dict[str, Any] = request.environ.get("werkzeug.proxy_fix.orig") or request.environ
    return str(before.get("REMOTE_ADDR") or "")


def _same(given: str, wanted: str) -> bool:
    """Whether two secrets are equal; digests, so that the time tells nothing, not even a length."""
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in (given, wanted)]
    return hmac.compare_digest(*digests)
