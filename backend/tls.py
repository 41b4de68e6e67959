"""Which certificate authorities are trusted: the same for Label Studio's API, the doctor and downloads."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import certifi

from trajseg.errors import InputError

SETTINGS = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
"""Environment variables that name a company's own authorities, as OpenSSL, httpx and requests spell them."""


def ssl_context() -> ssl.SSLContext:
    """A context that trusts all authorities that SETTINGS name, or certifi's where none is set.

    Raises InputError for a setting that names no certificates.
    """
    named = {name: Path(os.environ[name]) for name in SETTINGS if os.environ.get(name)}
    if not named:
        return ssl.create_default_context(cafile=certifi.where())
    context = ssl.create_default_context()
    for name, path in named.items():
        try:
            if path.is_dir():
                _load_folder(context, path)
            else:
                context.load_verify_locations(cafile=path)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{name} is {path}, which cannot be read as certificates: {getattr(error, 'strerror', error)}.",
                f"Point {name} to a PEM file (or, but for SSL_CERT_FILE, a folder of them), or unset it.",
            ) from error
    return context


def certificate_trouble(error: BaseException) -> str:
    """What to do about a certificate that was not trusted; empty where something else is the trouble."""
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


def _load_folder(context: ssl.SSLContext, folder: Path) -> None:
    # OpenSSL looks only for names that `c_rehash` made; people put plain PEM files there too.
    context.load_verify_locations(capath=folder)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (".pem", ".crt", ".cer"):
            context.load_verify_locations(cafile=path)
