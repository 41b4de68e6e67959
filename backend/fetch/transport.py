"""The transport: one GET to the addresses that were checked, with a total deadline and without decompression."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx

from backend.fetch.policy import Target
from backend.patience import CONNECT_SECONDS, SILENCE_SECONDS, Patience, PatientStream
from backend.tls import ssl_context


class PinnedNetwork(httpcore.NetworkBackend):
    """Connects to the addresses that the policy checked, without another DNS lookup: the answer could have changed."""

    def __init__(self, addresses: Sequence[str], patience: Patience) -> None:
        self._addresses = addresses
        self._patience = patience
        self._network = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in self._addresses:
            left = min(timeout or CONNECT_SECONDS, self._patience.left())
            try:
                stream = self._network.connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
                continue
            return PatientStream(stream, self._patience)
        raise failure


@contextmanager
def get(
    target: Target, addresses: Sequence[str], headers: dict[str, str], patience: Patience
) -> Iterator[tuple[httpcore.Response, httpx.Headers]]:
    """The answer to one GET, body not read yet; follows no redirects, uses no proxies.

    Raises DeadlineError, httpcore's exceptions, and anything that the patience's `tick` raises.
    """
    url = httpx.URL(target.url)
    sent = {"Accept-Encoding": "identity", "User-Agent": "trajseg", **headers}
    tls = ssl_context() if url.scheme == "https" else None
    with (
        httpcore.ConnectionPool(ssl_context=tls, network_backend=PinnedNetwork(addresses, patience)) as pool,
        pool.stream(
            "GET",
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=[(name.encode(), value.encode("latin-1", "replace")) for name, value in sent.items()],
            extensions={"timeout": {"connect": CONNECT_SECONDS, "read": SILENCE_SECONDS, "write": SILENCE_SECONDS}},
        ) as answer,
    ):
        yield answer, httpx.Headers(answer.headers)
