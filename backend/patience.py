"""Patience: a total deadline for requests, however slowly data arrives; httpx only limits single reads."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any

import httpcore
import httpx

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 30.0
TICK_SECONDS = 1.0

Tick = Callable[[], None]
"""Called about once a second during a download; an exception from it ends the download."""


class DeadlineError(Exception):
    """The requests took too long in total, even though data kept arriving."""


class Patience:
    """The time left for a download or other requests.

    Args:
        seconds: total, from now on.
        tick: called about once a second, even while nothing arrives.
    """

    def __init__(self, seconds: float, tick: Tick = lambda: None) -> None:
        self._deadline = time.monotonic() + seconds
        self._tick = tick
        self._ticked = time.monotonic()

    def left(self) -> float:
        """Seconds left. Raises DeadlineError if there are none, and anything that `tick` raises."""
        now = time.monotonic()
        if now - self._ticked >= TICK_SECONDS:
            self._ticked = now
            self._tick()
        if now >= self._deadline:
            raise DeadlineError
        return self._deadline - now


class PatientStream(httpcore.NetworkStream):
    """A connection whose reads and writes all respect the deadline, including headers and TLS."""

    def __init__(self, stream: httpcore.NetworkStream, patience: Patience) -> None:
        self._stream = stream
        self._patience = patience

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        quiet_until = time.monotonic() + (timeout or SILENCE_SECONDS)
        while True:
            left = min(self._patience.left(), quiet_until - time.monotonic())
            try:
                return self._stream.read(max_bytes, max(min(left, TICK_SECONDS), 0.001))
            except httpcore.ReadTimeout:
                if time.monotonic() >= quiet_until:
                    raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, min(timeout or SILENCE_SECONDS, self._patience.left()))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = min(timeout or CONNECT_SECONDS, self._patience.left())
        return PatientStream(self._stream.start_tls(ssl_context, server_hostname, left), self._patience)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _PatientNetwork(httpcore.SyncBackend):
    """Connects as usual; all reads and writes respect one deadline."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left = min(timeout or CONNECT_SECONDS, self._patience.left())
        stream = super().connect_tcp(host, port, left, local_address, socket_options)
        return PatientStream(stream, self._patience)


def patient_transport(context: ssl.SSLContext, patience: Patience | None) -> httpx.HTTPTransport:
    """httpx's own transport, whose requests all end at the deadline of `patience` with DeadlineError."""
    transport = httpx.HTTPTransport(verify=context)
    if patience is not None:
        # httpx has no total timeout, and hides the pool on which one could be set.
        transport._pool = httpcore.ConnectionPool(ssl_context=context, network_backend=_PatientNetwork(patience))
    return transport
