"""Slow and silent clients block nobody, and are closed."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx
import pytest

from backend import connections
from backend.http.media import media_url
from backend.server import BackendServer
from backend.settings import Settings

SOON = 20.0
"""Longest wait, seconds, for what happens within a second on a machine that has nothing else to do; below IDLE_SECONDS,
which ends any connection."""


@pytest.fixture
def server(settings: Settings) -> Iterator[BackendServer]:
    started = BackendServer(settings.model_copy(update={"port": 0, "threads": 4}))
    started.start()
    yield started
    started.stop()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def connect(server: BackendServer, stack: ExitStack, start: bytes = b"") -> socket.socket:
    client = stack.enter_context(socket.create_connection(("127.0.0.1", server.settings.port), timeout=10))
    client.sendall(start)
    return client


def health(server: BackendServer) -> float:
    """Seconds that /health takes."""
    begun = time.monotonic()
    assert httpx.get(f"{server.url}/health", timeout=SOON).status_code == 200
    return time.monotonic() - begun


def read(client: socket.socket) -> int:
    """Bytes that arrive until the connection ends."""
    client.settimeout(SOON)
    size = 0
    try:
        while part := client.recv(65536):
            size += len(part)
    except ConnectionError:
        pass
    return size


def is_cut(client: socket.socket, seconds: float = SOON) -> bool:
    client.settimeout(seconds)
    try:
        while client.recv(65536):
            pass
        return True
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def drips_until_cut(client: socket.socket, drop: bytes) -> bool:
    """Whether the connection ends although, or because, something arrives on it now and then."""
    until = time.monotonic() + SOON
    try:
        while time.monotonic() < until:
            client.sendall(drop)
            time.sleep(0.1)
    except ConnectionError:
        return True
    return False


def test_120_slow_connections_do_not_silence_health(
    server: BackendServer, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Health must not have to wait until they are cut off.
    monkeypatch.setattr(connections, "HEADER_SECONDS", 600.0)
    slow = [connect(server, stack, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ") for _ in range(120)]
    slow += [connect(server, stack) for _ in range(60)]
    waits = []
    for _ in range(10):
        for client in slow[:120]:
            client.sendall(b"a")
        waits.append(health(server))
    assert statistics.median(waits) < 1.0
    assert not any(is_cut(client, 0.001) for client in slow[:120])


def test_a_client_that_drips_its_headers_is_cut_off(
    server: BackendServer, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1.0)
    client = connect(server, stack, b"GET /health HTTP/1.1\r\n")
    assert drips_until_cut(client, b"X-Slow: a\r\n")
    health(server)


def test_a_client_that_drips_its_body_is_cut_off_and_a_busy_one_is_not(
    server: BackendServer, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.5)
    head = b"POST /webhook HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    drip = connect(server, stack, head % 100_000)
    body = b'{"action": "%s"}' % (b"x" * 300_000)
    busy = connect(server, stack, head % len(body))
    # It is as old as the other one, and has sent more than 16 kB a second when that is cut off.
    busy.sendall(body[:-1])
    assert drips_until_cut(drip, b" ")
    busy.sendall(body[-1:])
    busy.settimeout(SOON)
    assert busy.recv(12).startswith(b"HTTP/1.1 400")


def test_beyond_the_limit_the_longest_waiting_client_is_closed(
    settings: Settings, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 50)
    monkeypatch.setattr(connections, "HEADER_SECONDS", 600.0)
    server = BackendServer(settings.model_copy(update={"port": 0}))
    server.start()
    stack.callback(server.stop)
    slow = [connect(server, stack, b"GET /health HTTP/1.1\r\n") for _ in range(300)]
    assert statistics.median(health(server) for _ in range(5)) < 1.0
    assert is_cut(slow[0])
    assert not is_cut(slow[-1], 0.2)


def test_clients_that_do_not_read_their_answers_free_their_threads(
    server: BackendServer, stack: ExitStack, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 1.0)
    folder = settings.media_dir / "job"
    folder.mkdir(parents=True)
    size = 40 * 2**20
    (folder / "000001.jpg").write_bytes(bytes(size))
    path = urlsplit(media_url(settings, "job/000001.jpg")).path.encode()
    lazy = [connect(server, stack, b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path) for _ in range(4)]
    # They hold all threads, so this is answered once they are cut off.
    health(server)
    assert all(read(client) < size for client in lazy)


def test_an_idle_connection_is_kept_for_the_next_request(server: BackendServer) -> None:
    with httpx.Client(base_url=server.url) as client:
        assert client.get("/health").status_code == 200
        time.sleep(1.2)
        assert client.get("/health").status_code == 200
