"""Trusted certificate authorities: the same for Label Studio's API, the doctor and downloads."""

from __future__ import annotations

import os
import ssl
from functools import lru_cache
from pathlib import Path

import certifi

from trajseg.errors import InputError

SETTINGS = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Environment variables for private authorities, as named by OpenSSL, httpx, requests and curl."""

Stamps = tuple[tuple[str, int, int], ...]

DER = b"\x30\x82"
"""First bytes of a certificate in binary form."""


def ssl_context() -> ssl.SSLContext:
    """A context that trusts all authorities that SETTINGS name, or certifi's if none is set.

    It is shared and not to be changed: hundreds of certificates take a quarter of a second to load. Changed settings
    or files give a new one. Raises InputError for a setting without valid certificates.
    """
    return _loaded(tuple((name, path, _stamps(path)) for name in SETTINGS for path in _paths(name)))


@lru_cache(maxsize=4)
def _loaded(named: tuple[tuple[str, Path, Stamps], ...]) -> ssl.SSLContext:
    if not named:
        return ssl.create_default_context(cafile=certifi.where())
    context = ssl.create_default_context()
    for name, path, _ in named:
        try:
            if path.is_dir():
                _load_folder(context, path)
            else:
                _load_file(context, path)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{name} is {path}, which cannot be read as certificates: {getattr(error, 'strerror', error)}.",
                f"Point {name} to a PEM file (or a folder of them, except for SSL_CERT_FILE), or unset it.",
            ) from error
    return context


def certificate_trouble(error: BaseException) -> str:
    """What to do about an untrusted certificate; empty if the error has another cause."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" not in text:
        return ""
    if "mismatch" in text or "not valid for" in text:
        return "Use the name that the server's certificate is made out to."
    if "expired" in text or "not yet valid" in text:
        return "Renew the server's certificate, or set this machine's clock."
    return (
        "If a company's own authority signed the server's certificate, set SSL_CERT_FILE to its PEM file, for "
        "the backend and every worker."
    )


def _paths(name: str) -> list[Path]:
    """The paths in a setting; SSL_CERT_DIR may name several folders, as in OpenSSL."""
    value = os.environ.get(name, "")
    parts = value.split(os.pathsep) if name == "SSL_CERT_DIR" else [value]
    return [Path(part.strip()) for part in parts if part.strip()]


def _stamps(path: Path) -> Stamps:
    """Name, time of change and size of a file, or of everything in a folder; empty if it cannot be read."""
    try:
        states = [(each.name, each.stat()) for each in (path, *(sorted(path.iterdir()) if path.is_dir() else ()))]
    except OSError:
        return ()
    return tuple((name, state.st_mtime_ns, state.st_size) for name, state in states)


def _load_folder(context: ssl.SSLContext, folder: Path) -> None:
    # OpenSSL only looks for names created by `c_rehash`; people also put plain files there.
    context.load_verify_locations(capath=folder)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (".pem", ".crt", ".cer", ".der"):
            _load_file(context, path)


def _load_file(context: ssl.SSLContext, path: Path) -> None:
    """Trust the certificates of a PEM file, or the one of a DER file, as Windows exports it."""
    content = path.read_bytes()
    if content.startswith(DER):
        context.load_verify_locations(cadata=content)
    else:
        context.load_verify_locations(cafile=path)
