"""What Label Studio's error responses mean: our errors with a remedy, and which requests are worth retrying."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from label_studio_sdk.core.api_error import ApiError

from trajseg.errors import LabelStudioError, TrajSegError

LONGEST_RETRY_AFTER_SECONDS = 3600.0

NEW_TOKEN = (
    "Make a personal access token in Label Studio (Account & Settings > Personal Access Token) "
    "and set LABEL_STUDIO_API_KEY to it."
)
LEGACY_OFF = (
    "Use a personal access token (Account & Settings > Personal Access Token), or start Label Studio with "
    "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN=true."
)
SSRF = (
    "Start Label Studio with ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false, or give the "
    "backend a public address (TRAJSEG_PUBLIC_URL)."
)


class RefusedError(LabelStudioError):
    """Label Studio answered with a refusal.

    Args:
        status: the HTTP status, 400 to 499.
    """

    def __init__(self, message: str, remedy: str = "", status: int = 400) -> None:
        super().__init__(message, remedy)
        self.status = status


class UnavailableError(LabelStudioError):
    """Label Studio, or the proxy in front of it, cannot answer now: 5xx, 429, or a web page instead of JSON.

    Args:
        retry_after: seconds it asks to wait (the header Retry-After); None if it does not say.
    """

    def __init__(self, message: str, remedy: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, remedy)
        self.retry_after = retry_after


class OtherProjectError(RefusedError):
    """The project with this id in Label Studio is another one than the store knows."""


class MissingError(RefusedError):
    """Label Studio has no such task, project or prediction (404)."""


def refusal(error: ApiError, url: str) -> LabelStudioError:
    """Our error for a 4xx or 5xx answer: what Label Studio said, and what to do."""
    status = error.status_code or 0
    details = _details(error.body)
    wanted = retry_after_seconds(error.headers)
    if status >= 500 or status == 0:
        return UnavailableError(
            f"Label Studio at {url} failed ({status}): {details}", "Look at Label Studio's log.", wanted
        )
    if status == 429:
        return UnavailableError(f"Label Studio at {url} is rate-limiting requests: {details}", "", wanted)
    if status != 401 and not isinstance(error.body, Mapping | list):
        # Label Studio refuses in JSON: this is a proxy whose Label Studio is restarting.
        return UnavailableError(
            f"A server other than Label Studio answered at {url} ({status}): {details}",
            "Check that LABEL_STUDIO_URL points to Label Studio and that it is running.",
            wanted,
        )
    if status == 401 and "legacy token" in details:
        return RefusedError(f"Label Studio refuses the token: {details}", LEGACY_OFF, status)
    if status == 401:
        return RefusedError(f"Label Studio refuses the token: {details}", NEW_TOKEN, status)
    if status == 403 and "reserved network address" in details:
        return RefusedError(f"Label Studio refuses an address in a private network: {details}", SSRF, status)
    if status == 404:
        return MissingError(f"Label Studio has no such object: {details}", "", status)
    return RefusedError(f"Label Studio refused ({status}): {details}", "", status)


def _details(body: Any) -> str:
    """Label Studio's reason in one line."""
    if isinstance(body, Mapping):
        reasons = body.get("validation_errors") or body.get("detail") or body
        if isinstance(reasons, Mapping):
            reasons = "; ".join(
                f"{key}: {_details(value)}" if key != "non_field_errors" else _details(value)
                for key, value in reasons.items()
            )
        return _details(reasons)
    if isinstance(body, list):
        return "; ".join(_details(one) for one in body)
    text = str(body)
    if "<html" in text.lower():
        return "a web page instead of an answer"
    return " ".join(text.split())[:400]


def is_transient(error: TrajSegError) -> bool:
    """Whether the same request may succeed later.

    A rejected token counts: it affects all of Label Studio, and a person can renew it.
    """
    if isinstance(error, RefusedError):
        return error.status == 401
    return isinstance(error, LabelStudioError)


def retry_after(error: TrajSegError) -> float | None:
    """Seconds that Label Studio asked to wait; None if it did not say."""
    return error.retry_after if isinstance(error, UnavailableError) else None


def retry_after_seconds(headers: Mapping[str, str] | None) -> float | None:
    """The header Retry-After in seconds: a number, or a date."""
    text = httpx.Headers(dict(headers or {})).get("retry-after", "").strip()
    if text.isdigit():
        return min(float(text), LONGEST_RETRY_AFTER_SECONDS)
    try:
        seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_SECONDS)
