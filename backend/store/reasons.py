"""Reasons: what errors have in common once numbers, names and addresses are left out."""

from __future__ import annotations

import hashlib
import re

REASON_LENGTH = 16
"""Characters of a reason's key."""
READ_LENGTH = 1000
"""Characters of an error that are compared: it may quote what a task says, and long words take quadratic time."""
LONGEST_ERROR = 4000
"""Characters of an error that are stored; pages show many of them."""

_VARIABLE = re.compile(
    r"https?://\S+|[\"'`][^\"'`]{1,400}[\"'`]"  # addresses and quoted text
    r"|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}"  # ids
    r"|(?:\S*/)+\S*|\S+\.(?:mp4|webm|mkv|mov|avi|jpg|png)\b"  # files
    r"|\d+(?:\.\d+)?",
    re.IGNORECASE,
)


def pattern(error: str) -> str:
    """The error without numbers, names, files and addresses: equal for errors with the same reason."""
    return " ".join(_VARIABLE.sub("…", error[:READ_LENGTH]).split())


def reason_key(error: str) -> str:
    """The key of the error's pattern, 16 hexadecimal digits; empty for no error."""
    return hashlib.sha256(pattern(error).encode("utf-8", "surrogatepass")).hexdigest()[:REASON_LENGTH] if error else ""


def bounded(error: str) -> str:
    """The error, cut if it is longer than LONGEST_ERROR."""
    return error if len(error) <= LONGEST_ERROR else f"{error[: LONGEST_ERROR - 1]}…"
