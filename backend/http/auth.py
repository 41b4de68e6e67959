"""Basic authentication by setting: the only kind that Label Studio can send to a backend."""

from __future__ import annotations

import hmac

from flask import Flask, Response, jsonify, request

from backend.settings import Settings
from trajseg.errors import InputError

OPEN_ENDPOINTS = frozenset(
    {"service.health", "service.ready", "health", "media.file", "media.preflight", "pages.video"}
)
"""Health (also as label-studio-ml names it) is asked by everything that watches; links to files are signed."""


def protect(app: Flask, settings: Settings) -> None:
    """Ask for the user name and password of the settings, if there are any.

    Raises InputError when only one of the two is set: a service that looks protected must be.
    """
    user, password = settings.basic_auth_user, settings.basic_auth_password.get_secret_value()
    if bool(user) != bool(password):
        raise InputError(
            "Only one of TRAJSEG_BASIC_AUTH_USER and TRAJSEG_BASIC_AUTH_PASSWORD is set.",
            "Set both, or neither.",
        )
    if not user:
        return

    @app.before_request
    def check() -> Response | None:
        if request.endpoint in OPEN_ENDPOINTS:
            return None
        given = request.authorization
        if given is not None and given.type == "basic":
            same_user = hmac.compare_digest((given.username or "").encode(), user.encode())
            same_password = hmac.compare_digest((given.password or "").encode(), password.encode())
            if same_user and same_password:
                return None
        answer = jsonify(
            error="User name and password are asked for.",
            remedy="Give them in Label Studio's model settings under Basic authentication.",
        )
        answer.status_code = 401
        answer.headers["WWW-Authenticate"] = 'Basic realm="trajseg"'
        return answer
