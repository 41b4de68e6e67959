"""The fetch policy: which files and addresses a task may name, and which of them receive Label Studio's token.

* Label Studio's own addresses (`/data/upload/...`, `/data/local-files/?d=...`, `/storage-data/...`,
  `/tasks/N/resolve/...`, or absolute ones with its origin) are resolved against LABEL_STUDIO_URL. Only these paths
  receive the token; its API never does.
* Any other http(s) host must be allowed by name. A host allowed only by the wildcard `*` must have public addresses.
* A local path must be below an allowed folder after symbolic links are resolved.
"""

from __future__ import annotations

import ipaddress
import math
import re
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from backend.addresses import absolute, has_scheme, is_own_path, origin, shown_address, split
from backend.settings import Settings
from trajseg.errors import LabelStudioError, VideoError

MEDIA_PATH = re.compile(
    r"/(data/(upload/.+|local-files/?)|storage-data/.+|static/samples/.+|(tasks|projects)/\d+/(resolve|presign)/?)"
)
"""The paths under which Label Studio 1.23 serves files; everything else on its host is pages and API."""
SAMPLE_PATH = re.compile(r".*/static/samples/")
"""Label Studio's own examples are public: no token is needed."""
MOST_DECODINGS = 4
"""Deeper percent-encoding is treated as an attempt to hide something."""
HIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")
DISGUISES = tuple(
    ipaddress.IPv6Network(network)
    for network in ("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "fec0::/10")
)
"""IPv4-compatible, NAT64, 6to4 and Teredo map to IPv4 addresses, possibly private ones; site-local is private."""


@dataclass(frozen=True)
class Target:
    """An http(s) address that may be requested.

    Attributes:
        url: absolute, without user, password and fragment.
        trusted: the operator named the host, so it may have a private address.
        is_label_studio: has Label Studio's origin.
        takes_token: a Label Studio path that serves users' files.
    """

    url: str
    host: str
    port: int
    trusted: bool
    is_label_studio: bool
    takes_token: bool


@dataclass(frozen=True)
class FetchPolicy:
    """What may be fetched, from where, and how much.

    Attributes:
        label_studio_token: a legacy token, or a personal access token (a JWT exchanged for a short-lived one).
        hosts: `name`, `name:port`, `*.name`, or `*` for every host with a public address.
        folders: local paths must be below one of these.
    """

    label_studio_url: str = ""
    label_studio_token: str = ""
    hosts: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()
    max_bytes: int = 4 << 30
    max_seconds: float = 600.0
    cache_bytes: int = 20 << 30
    cache_seconds: float = math.inf

    @classmethod
    def from_settings(cls, settings: Settings) -> FetchPolicy:
        """The policy of the worker, the doctor and the pages."""
        return cls(
            label_studio_url=settings.label_studio_url,
            label_studio_token=settings.label_studio_api_key.get_secret_value(),
            hosts=settings.media_hosts,
            folders=tuple(Path(folder) for folder in settings.media_dirs),
            max_bytes=settings.download_max_bytes,
            max_seconds=settings.download_timeout_seconds,
            # Room for a few videos of the maximum size.
            cache_bytes=5 * settings.download_max_bytes,
            cache_seconds=settings.download_days * 86400,
        )

    def naming(self, url: str) -> FetchPolicy:
        """The same policy with the host of `url` allowed: for an address typed by the operator, not from a task."""
        _, host, port = origin(url)
        return replace(self, hosts=(*self.hosts, f"[{host}]:{port}")) if host else self

    def local_path(self, video: str) -> Path | None:
        """The local file that `video` names; None if it is an address.

        Raises VideoError for a path that is not allowed or does not exist.
        """
        if not video.strip():
            raise VideoError("The task names no video.", "Set the task's `video` to its address.")
        if video[:5].lower() == "file:":
            path = Path(unquote(split(video).path))
        elif has_scheme(video) or is_own_path(video, self.label_studio_url):
            return None
        else:
            path = Path(video)
        try:
            return self._allowed_file(video, path)
        except (OSError, ValueError, RuntimeError) as error:
            # A NUL, a name of more than 255 bytes, or a link loop.
            raise VideoError(
                f"The video {video[:200]!r} is not a usable path ({error}).", "Fix the path in the task's `video`."
            ) from error

    def _allowed_file(self, video: str, path: Path) -> Path:
        allowed = [folder.expanduser().resolve() for folder in self.folders]
        for candidate in [path] if path.is_absolute() else [folder / path for folder in allowed]:
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
            f"The video {video} is a path on this machine outside the allowed folders.",
            "Add its folder to TRAJSEG_MEDIA_DIRS, or use an http address in the task.",
        )

    def absolute_url(self, video: str) -> str:
        """The video's address with a host. Raises VideoError if Label Studio's address is needed and not set."""
        if not video.startswith("/"):
            return video
        if not self.label_studio_url:
            raise VideoError(
                f"The video {shown_address(video)} is in Label Studio, whose address is not set.",
                "Set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY for the worker.",
            )
        return absolute(video, self.label_studio_url)

    def target(self, url: str) -> Target:
        """The validated target; its name is not resolved yet. Raises VideoError if it may not be requested."""
        scheme, host, port = origin(url)
        if scheme not in ("http", "https") or not host or HIDDEN.search(url):
            raise VideoError(
                f"The video address {shown_address(url)!r} cannot be fetched.",
                "Use http(s), an upload to Label Studio, or a path in an allowed folder.",
            )
        parts = urlsplit(url)
        plain = urlunsplit((scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))
        named = self._named(host, port)
        label_studio = bool(self.label_studio_url) and (scheme, host, port) == origin(self.label_studio_url)
        is_file = label_studio and self._is_media(url, parts.path)
        if label_studio and not is_file and not named:
            raise VideoError(
                f"The video address {shown_address(url)} is a page of Label Studio, not a file that it stores.",
                "Use an upload (/data/upload/...), local files (/data/local-files/?d=...) or a connected storage.",
            )
        if not (label_studio or named or "*" in self.hosts):
            raise VideoError(
                f"The video {shown_address(url)} is on the host {host}, which is not allowed.",
                f"Add {host} to TRAJSEG_MEDIA_HOSTS (or `*` for every public host).",
            )
        return Target(plain, host, port, named or is_file, label_studio, is_file and not SAMPLE_PATH.match(parts.path))

    def addresses(self, target: Target) -> list[str]:
        """The IP addresses of a target's host, resolved once. Raises VideoError if a `*` host has a private one."""
        try:
            entries = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            if target.is_label_studio:
                raise self.label_studio_down(f"the host name {target.host} cannot be resolved") from error
            raise VideoError(
                f"The video {shown_address(target.url)} cannot be fetched: the host {target.host} cannot be resolved.",
                "Check the address in the task's `video`.",
            ) from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
        if not target.trusted and not all(map(is_public, addresses)):
            raise VideoError(
                f"The video {shown_address(target.url)} is on {target.host}, which has a private address.",
                f"If you trust that host, add {target.host} to TRAJSEG_MEDIA_HOSTS.",
            )
        return addresses

    def label_studio_down(self, why: str, remedy: str = "") -> LabelStudioError:
        """The error for a Label Studio that does not serve a video."""
        return LabelStudioError(
            f"Label Studio at {shown_address(self.label_studio_url)} does not serve the video: {why}.",
            remedy or "Check that it runs and that LABEL_STUDIO_URL is the address at which the worker reaches it.",
        )

    @property
    def _prefix(self) -> str:
        """The path prefix under which Label Studio is served; empty for the root."""
        return urlsplit(self.label_studio_url).path.rstrip("/")

    def _is_media(self, url: str, path: str) -> bool:
        """Whether Label Studio serves a file under this path. Raises VideoError for an obfuscated path."""
        decoded, once = path, unquote(path)
        for _ in range(MOST_DECODINGS):
            segments = [segment.partition(";")[0] for segment in decoded.split("/")]
            if HIDDEN.search(decoded) or "." in segments or ".." in segments:
                break
            if decoded == (decoded := unquote(decoded)):
                return decoded.startswith(f"{self._prefix}/") and bool(
                    MEDIA_PATH.fullmatch(once.removeprefix(self._prefix))
                )
        raise VideoError(
            f"The video address {shown_address(url)} is obfuscated (`..`, backslashes or repeated encoding).",
            "Use the address as Label Studio writes it in the task's `video`.",
        )

    def _named(self, host: str, port: int) -> bool:
        """Whether the operator named this host; `*` does not count."""
        for pattern in self.hosts:
            # [IPv6]:port, name:port, or a name or a bare IPv6 address without a port.
            parts = re.fullmatch(r"\[(.+)\](?::(\d+))?|([^:]+):(\d+)|(.+)", pattern.lower())
            if parts is None:
                continue
            name, wanted_port = parts[1] or parts[3] or parts[5], parts[2] or parts[4]
            if wanted_port and wanted_port != str(port):
                continue
            if name == host or (name.startswith("*.") and host.endswith(name[1:])):
                return True
        return False


def is_public(address: str) -> bool:
    """Whether an IP address, including one embedded in IPv6, is on the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if any(ip in network for network in DISGUISES):
            return False
    return ip.is_global and not ip.is_multicast
