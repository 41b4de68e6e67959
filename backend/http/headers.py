"""Headers that cannot be read are ignored, as HTTP demands; werkzeug fails on some of them."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from werkzeug.http import parse_date

DATES = ("HTTP_IF_MODIFIED_SINCE", "HTTP_IF_UNMODIFIED_SINCE", "HTTP_IF_RANGE")


def drop_unreadable(environ: dict[str, Any]) -> None:
    """Removes credentials that are not Base64 and dates that are none."""
    scheme, _, rest = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() == "basic" and not _is_base64(rest.strip()):
        del environ["HTTP_AUTHORIZATION"]
    for name in DATES:
        if name in environ and not _is_date(environ[name]):
            del environ[name]


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _is_date(text: str) -> bool:
    """Whether it can be compared with a date; an entity tag can, too."""
    try:
        parse_date(text)
    except (ValueError, OverflowError):
        return False
    return True
