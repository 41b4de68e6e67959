"""Patience: a deadline for requests as a whole, whatever trickles in; httpx limits each read alone."""

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
"""Called about once a second while a video is downloaded; what it raises ends the download."""


class DeadlineError(Exception):
    """The requests as a whole took too long, however busily it went on."""


class Patience:
    """How long a download, or other requests, may still take in all.

    Args:
        seconds: in all, from now on.
        tick: called about once a second, also while nothing arrives.
    """

    def __init__(self, seconds: float, tick: Tick = lambda: None) -> None:
        self._deadline = time.monotonic() + seconds
        self._tick = tick
        self._ticked = time.monotonic()

    def left(self) -> float:
        """Seconds that are left. Raises DeadlineError when there are none, and whatever `tick` raises."""
        now = time.monotonic()
        if now - self._ticked >= TICK_SECONDS:
            self._ticked = now
            self._tick()
        if now >= self._deadline:
            raise DeadlineError
        return self._deadline - now


class PatientStream(httpcore.NetworkStream):
    """A connection whose every read and write keeps to the download's deadline, headers and TLS too."""

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
    """Connects as usual; every read and write keeps to one deadline."""

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
        # httpx has no total time limit, and hides the pool that could be given one.
        transport._pool = httpcore.ConnectionPool(ssl_context=context, network_backend=_PatientNetwork(patience))
    return transport
