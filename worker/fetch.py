"""Fetches a task's video safely: only from allowed places, streamed to disk, capped, and kept in a cache.

Annotators control the text of a task, so the address of a video is not to be trusted:

* Label Studio's own addresses (`/data/upload/...`, `/data/local-files/?d=...`, `/storage-data/...`, or
  absolute ones) are resolved against the configured LABEL_STUDIO_URL, and only what lies below it ever gets
  the token.
* Any other http(s) host must be allowed by name. One that only the wildcard `*` allows must have public
  addresses.
* The address that was checked is the address that is connected to: the name is resolved once for each hop.
* A path on this machine must lie, symbolic links followed, below a configured folder.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import httpx

from backend.addresses import absolute, belongs_to, has_scheme, is_own_path, origin, shown_address, shown_text
from backend.downloads import download_folder
from backend.label_studio.client import token_kind
from backend.settings import Settings
from backend.tls import certificate_trouble, ssl_context
from trajseg.errors import LabelStudioError, ServiceError, VideoError

MAX_REDIRECTS = 5
CHUNK_BYTES = 1 << 18
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 30.0

Tick = Callable[[], None]
"""Called about once a second while a video is being downloaded; what it raises ends the download."""


@dataclass(frozen=True)
class FetchPolicy:
    """What may be fetched, from where, and how much of it."""

    label_studio_url: str = ""
    label_studio_token: str = ""
    """A legacy token, or a personal access token (a JWT that is exchanged for a short one)."""
    hosts: tuple[str, ...] = ()
    """`name`, `name:port`, `*.name`, or `*` for every host with a public address."""
    folders: tuple[Path, ...] = ()
    max_bytes: int = 4 << 30
    max_seconds: float = 600.0
    cache_bytes: int = 20 << 30

    @classmethod
    def from_settings(cls, settings: Settings) -> FetchPolicy:
        return cls(
            label_studio_url=settings.label_studio_url,
            label_studio_token=settings.label_studio_api_key.get_secret_value(),
            hosts=settings.media_hosts,
            folders=tuple(Path(folder) for folder in settings.media_dirs),
            max_bytes=settings.download_max_bytes,
            max_seconds=settings.download_timeout_seconds,
            # Room for a few of the largest videos that are allowed.
            cache_bytes=5 * settings.download_max_bytes,
        )


@contextmanager
def fetched(video: str, cache: Path, policy: FetchPolicy, tick: Tick | None = None) -> Iterator[Path]:
    """The video as a file on this machine, for as long as the context lasts.

    A downloaded file is locked against eviction while the context lasts. Raises VideoError when the address
    is refused or dead, LabelStudioError when Label Studio does not answer or refuses the token, ServiceError
    when the cache cannot be written, and whatever `tick` raises.
    """
    local = _local_path(video, policy)
    if local is not None:
        yield local
        return
    with _held(video, cache, policy, tick or (lambda: None)) as path:
        evict(cache, policy.cache_bytes)
        yield path


@contextmanager
def _held(video: str, cache: Path, policy: FetchPolicy, tick: Tick) -> Iterator[Path]:
    """The downloaded video, locked; one that another worker evicts before the lock is fetched again."""
    while True:
        path = _download(video, _absolute_url(video, policy), cache, policy, tick)
        try:
            handle = path.open("rb")
        except FileNotFoundError:
            continue
        with handle:
            fcntl.flock(handle, fcntl.LOCK_SH)
            if path.exists():
                yield path
                return


def evict(cache: Path, max_bytes: int) -> list[Path]:
    """Deletes the least recently used videos until the cache is small enough; one that is in use stays."""
    files = [path for path in cache.glob("*/video*") if path.is_file()]
    used = {path: path.stat() for path in files}
    size = sum(stat.st_size for stat in used.values())
    deleted = []
    for path in sorted(files, key=lambda path: used[path].st_mtime):
        if size <= max_bytes:
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


def _local_path(video: str, policy: FetchPolicy) -> Path | None:
    """The file that `video` names here, or None where it is an address; VideoError when not allowed."""
    if video.startswith("file://"):
        path = Path(unquote(urlsplit(video).path))
    elif is_own_path(video, policy.label_studio_url) or has_scheme(video):
        return None
    else:
        path = Path(video)
    if not video.strip():
        raise VideoError("The task names no video.", "Put the video's address into the task's `video`.")
    allowed = [folder.expanduser().resolve() for folder in policy.folders]
    candidates = [path] if path.is_absolute() else [folder / path for folder in allowed]
    for candidate in candidates:
        resolved = candidate.resolve()
        if any(resolved.is_relative_to(folder) for folder in allowed):
            if resolved.is_file():
                return resolved
            if path.is_absolute():
                raise VideoError(f"There is no video at {video}.", "Check the path in the task's `video`.")
    if not path.is_absolute() and allowed:
        raise VideoError(
            f"There is no video {video} below {', '.join(map(str, allowed))}.",
            "Check the path in the task's `video`.",
        )
    raise VideoError(
        f"The video {video} is a path on this machine, and no allowed folder holds it.",
        "Name its folder in TRAJSEG_MEDIA_DIRS, or put an http address into the task.",
    )


def _absolute_url(video: str, policy: FetchPolicy) -> str:
    if not video.startswith("/"):
        return video
    if not policy.label_studio_url:
        raise VideoError(
            f"The video {video} lies in Label Studio, whose address is not known here.",
            "Set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY for the worker.",
        )
    return absolute(video, policy.label_studio_url)


def _web_origin(video: str, url: str) -> tuple[str, int]:
    """Host and port of an http(s) address; VideoError for any other."""
    scheme, host, port = origin(url)
    if scheme not in ("http", "https") or not host:
        raise VideoError(
            f"The video {shown_address(video)} has an address that cannot be fetched.",
            "Use http(s), an upload to Label Studio, or a path in an allowed folder.",
        )
    return host, port


def _is_label_studio(url: str, policy: FetchPolicy) -> bool:
    return belongs_to(url, policy.label_studio_url)


def _named(host: str, port: int, policy: FetchPolicy) -> bool:
    """Whether the operator named this host; `*` names nobody."""
    for pattern in policy.hosts:
        name, _, wanted_port = pattern.lower().partition(":")
        if wanted_port and wanted_port != str(port):
            continue
        if name == host or (name.startswith("*.") and host.endswith(name[1:])):
            return True
    return False


def _checked_address(video: str, url: str, policy: FetchPolicy) -> str:
    """The IP address to connect to for `url`; VideoError when the host is not allowed or has no address."""
    host, port = _web_origin(video, url)
    trusted = _is_label_studio(url, policy) or _named(host, port, policy)
    if not trusted and "*" not in policy.hosts:
        raise VideoError(
            f"The video {shown_address(video)} is on the host {host}, which is not allowed.",
            f"Add {host} to TRAJSEG_MEDIA_HOSTS (or `*` for every public host).",
        )
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        if _is_label_studio(url, policy):
            raise _label_studio_down(policy, f"its name {host} is not known") from error
        raise VideoError(
            f"The video {shown_address(video)} cannot be fetched: the host {host} is not known.",
            "Check the address in the task's `video`.",
        ) from error
    addresses = [str(entry[4][0]) for entry in found]
    if not trusted and not all(_is_public(address) for address in addresses):
        raise VideoError(
            f"The video {shown_address(video)} is on {host}, which has a private address.",
            f"If that host is meant, name it in TRAJSEG_MEDIA_HOSTS: {host}.",
        )
    return addresses[0]


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_global and not (mapped or ip).is_multicast


def _why(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.LocalProtocolError):
        # Its words quote the header, and with it the token.
        return "the request cannot be sent, a header is invalid"
    return shown_text(str(error)) or type(error).__name__


def _is_web_page(start: bytes) -> bool:
    return start.lstrip()[:9].lower().startswith((b"<html", b"<!doctype"))


def _label_studio_down(policy: FetchPolicy, why: str, remedy: str = "") -> LabelStudioError:
    return LabelStudioError(
        f"Label Studio at {shown_address(policy.label_studio_url)} does not give out the video: {why}.",
        remedy or "Check that it runs and that LABEL_STUDIO_URL is the address at which the worker reaches it.",
    )


def _authorization(policy: FetchPolicy, client: httpx.Client) -> str:
    """The Authorization header for Label Studio; a personal access token is exchanged for a short one."""
    token = policy.label_studio_token.strip()
    kind = token_kind(token)
    if kind == "legacy":
        return f"Token {token}"
    if kind == "access":
        return f"Bearer {token}"
    try:
        answer = client.post(
            policy.label_studio_url.rstrip("/") + "/api/token/refresh/", json={"refresh": token}, timeout=10.0
        )
    except httpx.HTTPError as error:
        raise _label_studio_down(policy, _why(error), certificate_trouble(error)) from error
    if answer.status_code >= 500:
        raise _label_studio_down(policy, f"it answered {answer.status_code} to the token")
    if answer.status_code != 200:
        raise LabelStudioError(
            f"Label Studio does not accept the personal access token: it answered {answer.status_code}.",
            "Make a new one under Account & Settings and put it into LABEL_STUDIO_API_KEY.",
        )
    try:
        return f"Bearer {answer.json()['access']}"
    except (ValueError, KeyError, TypeError) as error:
        raise LabelStudioError(
            f"What answers the exchange of the token at {policy.label_studio_url} is not Label Studio: "
            f"{'a web page' if _is_web_page(answer.content) else 'it gives no access token'}.",
            "A proxy or a login page may be in between: set LABEL_STUDIO_URL to an address that leads to Label Studio "
            "without it.",
        ) from error


def _download(video: str, url: str, cache: Path, policy: FetchPolicy, tick: Tick) -> Path:
    """Where in the cache the video lies, downloaded now or unchanged since the last time."""
    _web_origin(video, url)
    folder = download_folder(cache, url)
    path = folder / f"video{_suffix(url)}"
    validators = _validators(folder) if path.exists() else {}
    deadline = time.monotonic() + policy.max_seconds
    timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
    # The environment's proxies would resolve names themselves, past the check of the address.
    with httpx.Client(timeout=timeout, trust_env=False, verify=ssl_context()) as client:
        for _ in range(MAX_REDIRECTS + 1):
            with _answer(video, url, policy, client, validators) as answer:
                if answer.has_redirect_location:
                    url = urljoin(url, answer.headers.get("location", ""))
                    continue
                if answer.status_code == 304:
                    os.utime(path)
                    return path
                _refuse_bad_answer(video, url, answer, policy)
                _store(video, answer, path, policy, deadline, tick)
                kept = {name: answer.headers[name] for name in ("etag", "last-modified") if name in answer.headers}
                (folder / "validators.json").write_text(json.dumps(kept))
                return path
    raise VideoError(
        f"The video {shown_address(video)} cannot be fetched: its server redirects without end.",
        "Put the final address into the task's `video`.",
    )


@contextmanager
def _answer(
    video: str, url: str, policy: FetchPolicy, client: httpx.Client, validators: dict[str, str]
) -> Iterator[httpx.Response]:
    """One request, without following redirects, to the address that was checked."""
    address = _checked_address(video, url, policy)
    parts = urlsplit(url)
    host = parts.hostname or ""
    pinned = httpx.URL(url).copy_with(host=address, userinfo=b"")
    headers = {"Host": parts.netloc.rpartition("@")[2], "Accept-Encoding": "identity"}
    if "etag" in validators:
        headers["If-None-Match"] = validators["etag"]
    elif "last-modified" in validators:
        headers["If-Modified-Since"] = validators["last-modified"]
    if _is_label_studio(url, policy) and policy.label_studio_token:
        headers["Authorization"] = _authorization(policy, client)
    try:
        with client.stream("GET", pinned, headers=headers, extensions={"sni_hostname": host}) as answer:
            yield answer
    except httpx.HTTPError as error:
        why, certificate = _why(error), certificate_trouble(error)
        if _is_label_studio(url, policy):
            raise _label_studio_down(policy, why, certificate) from error
        raise VideoError(
            f"The video {shown_address(video)} cannot be fetched: {why}.",
            certificate or "Check that the address is right and that its server answers.",
        ) from error


def _refuse_bad_answer(video: str, url: str, answer: httpx.Response, policy: FetchPolicy) -> None:
    status = answer.status_code
    if _is_label_studio(url, policy):
        if status in (401, 403):
            raise LabelStudioError(
                f"Label Studio refuses to give out the video {shown_address(video)}: it answered {status}.",
                "Check LABEL_STUDIO_API_KEY; a legacy token must be allowed by the organisation.",
            )
        if status >= 500:
            raise _label_studio_down(policy, f"it answered {status} for {shown_address(video)}")
    if status != 200:
        raise VideoError(
            f"The video {shown_address(video)} cannot be fetched: the server answered {status}.",
            "The link is dead or needs a login: open it in a browser, then correct the task's `video`.",
        )


def _store(video: str, answer: httpx.Response, path: Path, policy: FetchPolicy, deadline: float, tick: Tick) -> None:
    """Streams the body to a file beside `path` and renames it, so that `path` is never half a video."""
    too_big = VideoError(
        f"The video {shown_address(video)} is larger than the {policy.max_bytes / 1e6:.0f} MB that are allowed.",
        "Cut or re-encode it, or raise TRAJSEG_DOWNLOAD_MAX_BYTES.",
    )
    announced = answer.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > policy.max_bytes:
        raise too_big
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix="part-", delete=False) as part:
            try:
                size, last_tick = 0, time.monotonic()
                for chunk in answer.iter_bytes(CHUNK_BYTES):
                    if size == 0 and _is_web_page(chunk):
                        raise VideoError(
                            f"The address {shown_address(video)} gives a web page, not a video.",
                            "Put the address of the video file itself into the task's `video`.",
                        )
                    size += len(chunk)
                    if size > policy.max_bytes:
                        raise too_big
                    part.write(chunk)
                    if time.monotonic() - last_tick >= 1.0:
                        last_tick = time.monotonic()
                        tick()
                    if time.monotonic() > deadline:
                        raise VideoError(
                            f"The video {shown_address(video)} was not there after {policy.max_seconds:.0f} s.",
                            "Raise TRAJSEG_DOWNLOAD_TIMEOUT_SECONDS, or move the video to a faster server.",
                        )
                part.flush()
                os.replace(part.name, path)
            except BaseException:
                Path(part.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise ServiceError(
            f"The video {shown_address(video)} cannot be kept in {path.parent}: {error.strerror}.",
            "Free some disk, or move TRAJSEG_DATA_DIR.",
        ) from error


def _suffix(url: str) -> str:
    """The file ending that the address suggests, which tells PyAV and people what it is."""
    parts = urlsplit(url)
    name = parts.query.partition("d=")[2] if "/local-files/" in parts.path else parts.path
    suffix = Path(unquote(name)).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix) else ""


def _validators(folder: Path) -> dict[str, str]:
    try:
        kept = json.loads((folder / "validators.json").read_text())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
