"""Slow and silent clients keep nobody out, and are cut off."""

from __future__ import annotations

import socket
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
    assert httpx.get(f"{server.url}/health", timeout=5).status_code == 200
    return time.monotonic() - begun


def is_cut(client: socket.socket, seconds: float) -> bool:
    client.settimeout(seconds)
    try:
        while client.recv(65536):
            pass
        return True
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def test_120_slow_connections_do_not_silence_health(server: BackendServer, stack: ExitStack) -> None:
    slow = [connect(server, stack, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ") for _ in range(120)]
    slow += [connect(server, stack) for _ in range(60)]
    waits = []
    for _ in range(10):
        for client in slow[:120]:
            client.sendall(b"a")
        waits.append(health(server))
    assert max(waits) < 1.0


def test_a_client_that_drips_its_headers_is_cut_off(
    server: BackendServer, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1.0)
    client = connect(server, stack, b"GET /health HTTP/1.1\r\n")
    begun = time.monotonic()
    try:
        while time.monotonic() - begun < 10:
            client.sendall(b"X-Slow: a\r\n")
            time.sleep(0.1)
    except ConnectionError:
        pass
    assert time.monotonic() - begun < 5
    assert health(server) < 1


def test_a_client_that_drips_its_body_is_cut_off_and_a_busy_one_is_not(
    server: BackendServer, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.5)
    head = b"POST /webhook HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    drip = connect(server, stack, head % 100_000)
    body = b'{"action": "%s"}' % (b"x" * 300_000)
    busy = connect(server, stack, head % len(body))
    part, dripped = len(body) // 15 + 1, True
    for number in range(15):
        busy.sendall(body[number * part : (number + 1) * part])
        if dripped:
            try:
                drip.sendall(b" ")
            except OSError:
                dripped = False
        time.sleep(0.1)
    assert is_cut(drip, 2)
    assert busy.recv(12).startswith(b"HTTP/1.1 400")


def test_beyond_the_limit_the_longest_waiting_client_gives_way(
    settings: Settings, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 50)
    server = BackendServer(settings.model_copy(update={"port": 0}))
    server.start()
    stack.callback(server.stop)
    slow = [connect(server, stack, b"GET /health HTTP/1.1\r\n") for _ in range(300)]
    assert max(health(server) for _ in range(5)) < 1.0
    assert is_cut(slow[0], 1)
    assert not is_cut(slow[-1], 0.2)


def test_clients_that_do_not_read_their_answers_free_their_threads(
    server: BackendServer, stack: ExitStack, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 1.0)
    folder = settings.media_dir / "job"
    folder.mkdir(parents=True)
    (folder / "000001.jpg").write_bytes(bytes(40 * 2**20))
    path = urlsplit(media_url(settings, "job/000001.jpg")).path.encode()
    lazy = [connect(server, stack, b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path) for _ in range(4)]
    time.sleep(3.5)
    assert health(server) < 1
    assert all(is_cut(client, 2) for client in lazy)


def test_an_idle_connection_is_kept_for_the_next_request(server: BackendServer) -> None:
    with httpx.Client(base_url=server.url) as client:
        assert client.get("/health").status_code == 200
        time.sleep(1.2)
        assert client.get("/health").status_code == 200
