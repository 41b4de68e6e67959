"""Addresses of videos in task data: which belong to Label Studio, what they point to, and how to display them."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_OWN_PATH = re.compile(
    r"/(data/upload/|data/local-files/|storage-data/|static/samples/|(tasks|projects)/\d+/(resolve|presign)/)"
)
_URL_IN_TEXT = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)


def has_scheme(address: str) -> bool:
    """Whether this is an address with a scheme, such as `https://` or `s3://`; a name with a colon is not."""
    return _SCHEME.match(address) is not None


def is_link(address: str) -> bool:
    """Whether this is an http(s) address."""
    return re.match(r"https?://", address, re.IGNORECASE) is not None


def is_own_path(address: str, base: str) -> bool:
    """Whether Label Studio at `base` serves this path, with or without the path prefix of `base`."""
    return _OWN_PATH.match(_below(address, base)) is not None


def absolute(address: str, base: str) -> str:
    """The http address of a path that Label Studio at `base` serves; other addresses are unchanged."""
    return base.rstrip("/") + _below(address, base) if is_own_path(address, base) else address


def served_path(path: str, base: str) -> str:
    """A path below Label Studio's root as its pages need it in task data: prefixed with the path of `base`."""
    return split(base).path.rstrip("/") + path


def belongs_to(url: str, base: str) -> bool:
    """Whether an address is at or below `base`: same scheme, host and port, and below its path."""
    if not base or origin(url) != origin(base):
        return False
    prefix = split(base).path.rstrip("/")
    path = posixpath.normpath(unquote(split(url).path) or "/")
    return path == prefix or path.startswith(f"{prefix}/")


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of an address; empty if it has none."""
    try:
        parts = urlsplit(url)
        scheme = parts.scheme.lower()
        return scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(scheme, 0)
    except ValueError:
        return "", "", 0


def shown_address(address: str) -> str:
    """An address for messages, pages and logs: without user, password or signature."""
    parts = split(address)
    if not parts.scheme and not parts.netloc and not address.startswith("/"):
        return address
    query = parts.query.partition("&")[0] if parts.query.startswith("d=") else ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))


def shown_text(text: str) -> str:
    """A text with every address in it shown as by `shown_address`."""
    return _URL_IN_TEXT.sub(lambda match: shown_address(match[0]), text)


def video_name(address: str) -> str:
    """A short name for a video: the last part of its path, or of the file that its address names.

    The prefix that Label Studio adds to uploaded files is left out.
    """
    parts = split(address)
    path = parts.query.removeprefix("d=") if parts.query.startswith("d=") else parts.path
    name = unquote(path).rstrip("/").rpartition("/")[2]
    if "/data/upload/" in path:
        name = re.sub(r"^[0-9a-f]{8}-(?=.)", "", name)
    return name or parts.netloc.rpartition("@")[2] or "video"


def split(address: str) -> SplitResult:
    """`urlsplit` that treats anything but an address as a path."""
    try:
        return urlsplit(address)
    except ValueError:
        scheme, mark, rest = address.partition("?")[0].partition("://")
        if not mark:
            return SplitResult("", "", scheme, "", "")
        host, slash, path = rest.rpartition("@")[2].partition("/")
        return SplitResult(scheme, host, slash + path, "", "")


def _below(address: str, base: str) -> str:
    """A path on this server without the path prefix of `base`."""
    prefix = split(base).path.rstrip("/")
    return address.removeprefix(prefix) if prefix and address.startswith(f"{prefix}/") else address
