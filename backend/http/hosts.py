"""Host names: which names a request may be addressed to, and which addresses are this machine's own.

A malicious page can make its own name resolve to this machine (DNS rebinding). The browser then treats the backend as
part of that page. Only the Host header reveals it: it holds the page's name, never an IP address.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from backend.settings import Settings

HOST_HEADER = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]@/\s]+))(?::[0-9]{1,5})?")


class AllowedHosts:
    """The names of this backend.

    IP addresses, `localhost`, the hosts of TRAJSEG_PUBLIC_URL, LABEL_STUDIO_URL and TRAJSEG_HOST, and what
    TRAJSEG_ALLOWED_HOSTS adds: `name`, `*.name`, or `*` for every name.
    """

    def __init__(self, settings: Settings) -> None:
        known = {urlsplit(url).hostname or "" for url in (settings.public_url, settings.label_studio_url)}
        self._patterns = {"localhost", "*.localhost", settings.host.lower(), *known, *settings.allowed_hosts} - {""}

    def allows(self, header: str) -> bool:
        """Whether a request with this Host header is meant for this backend."""
        match = HOST_HEADER.fullmatch(header)
        if match is None:
            return False
        if match["v6"]:
            return _is_address(match["v6"])
        name = match["name"].lower().rstrip(".")
        return _is_address(name) or any(
            pattern in ("*", name) or (pattern.startswith("*.") and name.endswith(pattern[1:]))
            for pattern in self._patterns
        )


def is_loopback(address: str) -> bool:
    """Whether an IP address can be reached only from this machine; an empty one is that of a Unix socket."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return not address
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
