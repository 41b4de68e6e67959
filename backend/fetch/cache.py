"""The cache of fetched videos: streamed to disk, limited in size, validated, and never a partial file."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import httpcore
import httpx

from backend.addresses import shown_address, shown_text
from backend.fetch.policy import FetchPolicy, Target
from backend.fetch.transport import get
from backend.label_studio.api import token_kind
from backend.label_studio.refusals import UnavailableError, retry_after_seconds
from backend.patience import DeadlineError, Patience, Tick
from backend.private import private_folder
from backend.tls import certificate_trouble, ssl_context
from trajseg.errors import LabelStudioError, ServiceError, VideoError
from trajseg.video.decoding import opened

MAX_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
TOKEN_SECONDS = 10.0
LATER = (429, 503)
"""Status codes that mean "try again later"."""
PART = "part-"
OLD_PART_SECONDS = 24 * 3600.0
"""A partial file this old was left behind by a killed worker."""


class BusyServerError(ServiceError):
    """A video's server asks to be tried again later.

    Args:
        retry_after: seconds it asks to wait; None if it does not say.
    """

    def __init__(self, message: str, retry_after: float | None) -> None:
        super().__init__(message, "The job will be retried later.")
        self.retry_after = retry_after


@contextmanager
def fetched(video: str, cache: Path, policy: FetchPolicy, tick: Tick | None = None) -> Iterator[Path]:
    """The video as a local file while the context lasts.

    A downloaded file is locked against eviction meanwhile.

    Raises:
        VideoError: the address is refused or dead, or does not point to a video.
        LabelStudioError: Label Studio does not answer, rejects the token, or asks to be tried later.
        BusyServerError: another server asks to be tried later.
        ServiceError: the cache cannot be written.
        Exception: anything that `tick` raises.
    """
    local = policy.local_path(video)
    if local is not None:
        yield local
        return
    with _locked(video, cache, policy, tick or (lambda: None)) as path:
        evict(cache, policy.cache_bytes, policy.cache_seconds)
        yield path


def cached_file(video: str, cache: Path, policy: FetchPolicy) -> Path | None:
    """The local file of a video, in an allowed folder or the cache; None if it is not on this machine."""
    try:
        local = policy.local_path(video)
        if local is not None:
            return local
        folder = download_folder(cache, policy.absolute_url(video))
    except VideoError:
        return None
    return next((path for path in folder.glob("video*") if path.is_file()), None)


def is_video(path: Path) -> bool:
    """Whether a file is, by content rather than name, a video that trajseg can read."""
    try:
        stat = path.stat()
    except OSError:
        return False
    return _has_pictures(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _has_pictures(path: Path, modified: int, size: int) -> bool:
    try:
        with opened(path):
            return True
    except VideoError:
        return False


def evict(cache: Path, max_bytes: int, max_seconds: float = math.inf) -> list[Path]:
    """Deletes videos unused for `max_seconds`, then the least recently used ones until the cache is small enough.

    Videos in use are kept. Returns the deleted ones.
    """
    for part in cache.glob(f"*/{PART}*"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > OLD_PART_SECONDS:
                part.unlink()
    files = [path for path in cache.glob("*/video*") if path.is_file()]
    used = {path: path.stat() for path in files}
    size = sum(stat.st_size for stat in used.values())
    deleted = []
    for path in sorted(files, key=lambda path: used[path].st_mtime):
        if size <= max_bytes and time.time() - used[path].st_mtime <= max_seconds:
            break
        with path.open("rb") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            (path.parent / "validators.json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        size -= used[path].st_size
        deleted.append(path)
    return deleted


@contextmanager
def _locked(video: str, cache: Path, policy: FetchPolicy, tick: Tick) -> Iterator[Path]:
    """The downloaded video, locked; if another worker evicts it before the lock, it is fetched again."""
    while True:
        path = _Download(video, cache, policy, tick).path()
        try:
            handle = path.open("rb")
        except FileNotFoundError:
            continue
        with handle:
            fcntl.flock(handle, fcntl.LOCK_SH)
            if path.exists():
                yield path
                return


class _Download:
    """One download of one video, through all its redirects."""

    def __init__(self, video: str, cache: Path, policy: FetchPolicy, tick: Tick) -> None:
        self._name = shown_address(video)
        self._policy = policy
        self._url = policy.absolute_url(video)
        # Before anything else parses it: it may not even be an address.
        policy.target(self._url)
        self._folder = download_folder(cache, self._url)
        self._path = self._folder / f"video{_suffix(self._url)}"
        self._patience = Patience(policy.max_seconds, tick)
        self._left_label_studio = False

    def path(self) -> Path:
        """The cached file: downloaded now, or unchanged since the last time."""
        url = self._url
        try:
            for _ in range(MAX_REDIRECTS + 1):
                # Checked before any request, and again at every redirect.
                target = self._policy.target(url)
                with self._answer(target) as (answer, headers):
                    if answer.status in REDIRECTS and "location" in headers:
                        url = urljoin(target.url, headers["location"])
                        continue
                    if answer.status == 304:
                        os.utime(self._path)
                        return self._path
                    self._refuse_bad_status(target, answer.status, headers)
                    self._store(answer, headers)
                    return self._path
        except DeadlineError as error:
            raise VideoError(
                f"The video {self._name} was not downloaded within {self._policy.max_seconds:.0f} s.",
                "Raise TRAJSEG_DOWNLOAD_TIMEOUT_SECONDS, or move the video to a faster server.",
            ) from error
        raise VideoError(
            f"The video {self._name} cannot be fetched: its server redirects endlessly.",
            "Put the final address into the task's `video`.",
        )

    @contextmanager
    def _answer(self, target: Target) -> Iterator[tuple[httpcore.Response, httpx.Headers]]:
        headers = self._validators()
        # Only a direct request gets the token; after a redirect another server would choose where it goes.
        self._left_label_studio |= not target.takes_token
        if target.takes_token and not self._left_label_studio and self._policy.label_studio_token:
            headers["Authorization"] = self._authorization()
        addresses = self._policy.addresses(target)
        try:
            with get(target, addresses, headers, self._patience) as answer:
                yield answer
        except (
            httpcore.NetworkError,
            httpcore.TimeoutException,
            httpcore.ProtocolError,
            httpcore.UnsupportedProtocol,
            httpx.InvalidURL,
        ) as error:
            why, certificate = _why(error), certificate_trouble(error)
            if target.is_label_studio:
                raise self._policy.label_studio_down(why, certificate) from error
            raise VideoError(
                f"The video {self._name} cannot be fetched: {why}.",
                certificate or "Check that the address is right and that its server answers.",
            ) from error

    def _authorization(self) -> str:
        """The Authorization header for Label Studio; a personal access token is exchanged for a short-lived one."""
        token = self._policy.label_studio_token.strip()
        kind = token_kind(token)
        if kind != "personal access":
            return f"{'Token' if kind == 'legacy' else 'Bearer'} {token}"
        url = self._policy.label_studio_url.rstrip("/") + "/api/token/refresh/"
        try:
            answer = httpx.post(
                url, json={"refresh": token}, timeout=TOKEN_SECONDS, trust_env=False, verify=ssl_context()
            )
        except httpx.HTTPError as error:
            raise self._policy.label_studio_down(_why(error), certificate_trouble(error)) from error
        if answer.status_code in LATER:
            raise UnavailableError(
                f"Label Studio is busy: it answered {answer.status_code} to the token exchange.",
                "",
                retry_after_seconds(answer.headers),
            )
        if answer.status_code >= 500:
            raise self._policy.label_studio_down(f"it answered {answer.status_code} to the token")
        if answer.status_code != 200:
            raise LabelStudioError(
                f"Label Studio does not accept the personal access token: it answered {answer.status_code}.",
                "Create a new one under Account & Settings and set LABEL_STUDIO_API_KEY to it.",
            )
        try:
            return f"Bearer {answer.json()['access']}"
        except (ValueError, KeyError, TypeError) as error:
            raise LabelStudioError(
                f"The token exchange at {shown_address(url)} was not answered by Label Studio: "
                f"{'a web page' if _is_web_page(answer.content) else 'no access token'}.",
                "A proxy or a login page may be in between: set LABEL_STUDIO_URL to an address that reaches "
                "Label Studio directly.",
            ) from error

    def _refuse_bad_status(self, target: Target, status: int, headers: httpx.Headers) -> None:
        if status in LATER:
            wish = retry_after_seconds(headers)
            why = "is rate-limiting requests" if status == 429 else "is busy"
            if target.is_label_studio:
                raise UnavailableError(f"Label Studio {why}: it answered {status} for {self._name}.", "", wish)
            raise BusyServerError(f"The server of the video {self._name} {why}: it answered {status}.", wish)
        if target.is_label_studio:
            if status in (401, 403):
                raise LabelStudioError(
                    f"Label Studio refuses access to the video {self._name}: it answered {status}.",
                    "Check LABEL_STUDIO_API_KEY; a legacy token must be allowed by the organisation.",
                )
            if status >= 500:
                raise self._policy.label_studio_down(f"it answered {status} for {self._name}")
        if status != 200:
            raise VideoError(
                f"The video {self._name} cannot be fetched: the server answered {status}.",
                "The link is dead or needs a login: open it in a browser, then fix the task's `video`.",
            )

    def _store(self, answer: httpcore.Response, headers: httpx.Headers) -> None:
        """Streams the body to a temporary file beside the video, renamed once it is known to be a video."""
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            # We accepted no encoding, and the unpacked size would be unlimited.
            raise VideoError(
                f"The server of the video {self._name} sends it compressed ({encoding[:40]}).",
                "Have the server send the file as it is, without Content-Encoding.",
            )
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self._policy.max_bytes:
            raise self._too_big()
        try:
            private_folder(self._folder)
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix=PART, delete=False) as part:
                try:
                    self._write(answer, part)
                    with opened(Path(part.name), self._name):
                        pass
                    os.replace(part.name, self._path)
                except BaseException:
                    Path(part.name).unlink(missing_ok=True)
                    raise
            kept = {name: headers[name] for name in ("etag", "last-modified") if name in headers}
            (self._folder / "validators.json").write_text(json.dumps(kept))
        except OSError as error:
            raise ServiceError(
                f"The video {self._name} cannot be stored in {self._folder}: {error.strerror}.",
                "Free disk space, or move TRAJSEG_DATA_DIR.",
            ) from error

    def _write(self, answer: httpcore.Response, part: tempfile._TemporaryFileWrapper[bytes]) -> None:
        size = 0
        for chunk in answer.iter_stream():
            if size == 0 and _is_web_page(chunk):
                raise VideoError(
                    f"The address {self._name} points to a web page, not a video.",
                    "Put the address of the video file itself into the task's `video`.",
                )
            size += len(chunk)
            if size > self._policy.max_bytes:
                raise self._too_big()
            part.write(chunk)
        part.flush()

    def _too_big(self) -> VideoError:
        return VideoError(
            f"The video {self._name} is larger than the {self._policy.max_bytes / 1e6:.0f} MB that are allowed.",
            "Cut or re-encode it, or raise TRAJSEG_DOWNLOAD_MAX_BYTES.",
        )

    def _validators(self) -> dict[str, str]:
        """Headers that request the video only if it has changed; empty without a cached copy."""
        if not self._path.exists():
            return {}
        try:
            kept = json.loads((self._folder / "validators.json").read_text())
        except (OSError, ValueError):
            return {}
        if not isinstance(kept, dict):
            return {}
        if "etag" in kept:
            return {"If-None-Match": str(kept["etag"])}
        return {"If-Modified-Since": str(kept["last-modified"])} if "last-modified" in kept else {}


def download_folder(cache: Path, url: str) -> Path:
    """The folder of `cache` for an absolute address: it holds the file `video` with its suffix."""
    return cache / hashlib.sha256(url.encode()).hexdigest()[:32]


def _suffix(url: str) -> str:
    """The file suffix suggested by the address, used by PyAV and by people."""
    parts = urlsplit(url)
    name = parts.query.partition("d=")[2] if "/local-files/" in parts.path else parts.path
    suffix = Path(unquote(name)).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix) else ""


def _is_web_page(start: bytes) -> bool:
    return start.lstrip()[:9].lower().startswith((b"<html", b"<!doctype"))


def _why(error: Exception) -> str:
    if isinstance(error, httpx.LocalProtocolError | httpcore.LocalProtocolError):
        # The exception's text quotes the header, and with it the token.
        return "the request cannot be sent because a header is invalid"
    return shown_text(str(error)) or type(error).__name__
