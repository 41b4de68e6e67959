"""Connections: waitress with deadlines, so that slow or silent clients cannot lock others out."""

from __future__ import annotations

import logging
import resource
import socket
import time
from collections.abc import Sequence
from typing import Any

from waitress.adjustments import Adjustments  # type: ignore[import-untyped]
from waitress.channel import HTTPChannel  # type: ignore[import-untyped]
from waitress.parser import HTTPRequestParser, ParsingError  # type: ignore[import-untyped]
from waitress.server import MultiSocketServer, TcpWSGIServer  # type: ignore[import-untyped]
from waitress.task import ThreadedTaskDispatcher  # type: ignore[import-untyped]

HEADER_SECONDS = 10.0
"""Limit from the first byte of a request to the end of its headers, seconds."""
BODY_SECONDS = 30.0
"""Grace period for a body, seconds; after that it must have averaged LEAST_BYTES_PER_SECOND."""
LEAST_BYTES_PER_SECOND = 16 * 1024
UNREAD_SECONDS = 60.0
"""A client that reads nothing of its answer for this long is disconnected; its answer may be holding a thread."""
IDLE_SECONDS = 30
"""How long a connection without a request stays open, seconds."""
MOST_CONNECTIONS = 1000
"""Above this many connections, the one that has waited longest for the rest of its request is closed."""
SPARE_FILES = 200
"""File descriptors reserved for everything but connections."""


class RequestParser(HTTPRequestParser):  # type: ignore[misc]
    """waitress's parser; it also refuses what a proxy in front might understand differently.

    An address that cannot be parsed is answered, too.
    """

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError as error:
            raise ParsingError(f"Invalid address ({error}).") from error
        # Two lengths for one body: what one reader takes for the rest of it, another takes for the next request.
        if self.chunked and "CONTENT_LENGTH" in self.headers:
            raise ParsingError("Both Content-Length and Transfer-Encoding are given.")
        if "TRANSFER_ENCODING" in self.headers:
            raise ParsingError("Transfer-Encoding needs HTTP/1.1.")
        if self.proxy_netloc:
            # The host in the address counts, whatever the header says (RFC 9112, 3.2.2).
            self.headers["HOST"] = self.proxy_netloc


class DeadlineChannel(HTTPChannel):  # type: ignore[misc]
    """A connection that is closed when it is too slow."""

    parser_class = RequestParser
    begun: float | None = None
    """When the first byte of the current request arrived."""
    cut = False
    """Whether it has been cut off, perhaps while the server goes through its connections."""

    def received(self, data: bytes) -> Any:
        """Tracks when a request begins and ends."""
        if self.request is None:
            self.begun = time.time()
        try:
            return super().received(data)
        finally:
            if self.request is None:
                self.begun = None

    def send_continue(self) -> None:
        """Let a client that asks first send its body, unless the headers alone are refused."""
        if self.request.error is None:
            super().send_continue()

    def overdue(self, moment: float) -> bool:
        """Whether it has exceeded a deadline."""
        if self.total_outbufs_len and moment - self.last_activity > UNREAD_SECONDS:
            return True
        request, begun = self.request, self.begun
        if request is None or begun is None:
            return False
        if not request.headers_finished:
            return moment - begun > HEADER_SECONDS
        return moment - begun > BODY_SECONDS + request.body_bytes_received / LEAST_BYTES_PER_SECOND

    @property
    def waits_since(self) -> float | None:
        """Since when it has been waiting for (the rest of) a request; None while it is being answered."""
        if self.requests or self.total_outbufs_len:
            return None
        return self.begun or self.last_activity

    def cut_off(self) -> None:
        """Closes it at once, discarding unsent and unread data."""
        self.cut = self.will_close = True
        # The server asks every connection before every wait: a method of ours for it would cost more than it tells.
        self.readable = self.writable = _never
        self.handle_close()


def _never() -> bool:
    return False


class QuietDispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]
    """Threads that answer requests, without waitress's warning of each request that has to wait.

    Where many wait, those warnings keep them waiting.
    """

    queue_logger = logging.getLogger("trajseg.waiting")
    queue_logger.setLevel(logging.ERROR)


class DeadlineServer(TcpWSGIServer):  # type: ignore[misc]
    """One listening socket whose connections have deadlines."""

    channel_class = DeadlineChannel

    def maintenance(self, now: float) -> None:
        """Closes overdue connections; waitress calls it about once a second."""
        super().maintenance(now)
        for channel in list(self.active_channels.values()):
            if channel.overdue(now):
                channel.cut_off()

    def handle_accept(self) -> None:
        waiting = [(since, channel) for channel in self._channels() if (since := channel.waits_since) is not None]
        # Two file descriptors in the map are not connections: the socket and its trigger.
        if len(self._map) >= self.adj.connection_limit - 2 and waiting:
            min(waiting, key=lambda one: one[0])[1].cut_off()
        super().handle_accept()

    def _channels(self) -> list[DeadlineChannel]:
        if len(self._map) < self.adj.connection_limit - 2:
            return []
        return [one for one in self._map.values() if isinstance(one, DeadlineChannel) and not one.cut]


def create_server(app: Any, sockets: Sequence[socket.socket], threads: int, max_body_bytes: int) -> MultiSocketServer:
    """A server for `app` on bound sockets; `run` serves, `close` ends it."""
    limit = min(MOST_CONNECTIONS, max(_most_files() - SPARE_FILES, 50))
    settings = Adjustments(
        sockets=list(sockets),
        threads=threads,
        ident="trajseg",
        max_request_body_size=max_body_bytes,
        connection_limit=limit,
        backlog=limit,
        channel_timeout=IDLE_SECONDS,
        cleanup_interval=1,
        # select() cannot handle file descriptors above 1023.
        asyncore_use_poll=True,
    )
    dispatcher = QuietDispatcher()
    dispatcher.set_thread_count(settings.threads)
    shared: dict[int, Any] = {}
    servers = [
        DeadlineServer(
            app,
            shared,
            True,
            bound,
            dispatcher=dispatcher,
            adj=settings,
            bind_socket=False,
            sockinfo=(bound.family, bound.type, bound.proto, bound.getsockname()),
        )
        for bound in sockets
    ]
    listening = [(server.effective_host, server.effective_port) for server in servers]
    return MultiSocketServer(shared, settings, listening, dispatcher, servers[0].log_info)


def _most_files() -> int:
    """How many files this process may open; raises the soft limit as far as allowed and useful."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else soft
