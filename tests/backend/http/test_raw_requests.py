"""Malformed requests that no library sends: each gets a clear error at once and blocks nobody."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest

from backend.server import BackendServer
from backend.settings import Settings

HEAD = b"Host: localhost\r\nConnection: close\r\n"
JSON = HEAD + b"Content-Type: application/json\r\n"
POST = b"POST /predict HTTP/1.1\r\n" + JSON
RAW = {
    "unknown method": (b"PROPFIND /jobs HTTP/1.1\r\n" + HEAD + b"\r\n", 405),
    "tunnel": (b"CONNECT evil.example:80 HTTP/1.1\r\n" + HEAD + b"\r\n", 404),
    "address of nothing": (b"GET http://[ HTTP/1.1\r\n" + HEAD + b"\r\n", 400),
    "negative length": (POST + b"Content-Length: -1\r\n\r\n{}", 400),
    "endless length": (POST + b"Content-Length: 99999999999999999999\r\n\r\n{}", 413),
    "endless length, asked first": (POST + b"Expect: 100-continue\r\nContent-Length: 999999999\r\n\r\n", 413),
    "two lengths": (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", 400),
    "unknown encoding": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "odd chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n", 400),
    "a length and chunks": (
        POST
        + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /jobs HTTP/1.1\r\n"
        + HEAD
        + b"\r\n",
        400,
    ),
    "chunks before there were any": (
        b"POST /predict HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "another host in the address": (b"GET http://evil.example/jobs HTTP/1.1\r\n" + HEAD + b"\r\n", 400),
    "a password that is not Base64": (
        b"GET /jobs HTTP/1.1\r\nAuthorization: Basic \xff\xff==\r\n" + HEAD + b"\r\n",
        200,
    ),
    "a date that is none": (
        b"GET /page/static/page.css HTTP/1.1\r\nIf-Modified-Since: Sun, 06 Nov 99999999999 08:49:37 GMT\r\n"
        + HEAD
        + b"\r\n",
        200,
    ),
    "two hosts": (b"GET /jobs HTTP/1.1\r\nHost: evil.example\r\n" + HEAD + b"\r\n", 400),
    "NUL in a header": (b"GET /health HTTP/1.1\r\n" + HEAD + b"X: a\0b\r\n\r\n", 400),
    "up and away": (b"GET /page/static/..%2f..%2fsettings.py HTTP/1.1\r\n" + HEAD + b"\r\n", 404),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendServer]:
    folder = tmp_path_factory.mktemp("raw")
    started = BackendServer(Settings(data_dir=folder, redis_url="redis://127.0.0.1:9/0", port=0))
    started.start()
    yield started
    started.stop()


@pytest.mark.parametrize("name", list(RAW))
def test_malformed_request_is_answered_at_once_and_blocks_nobody(server: BackendServer, name: str) -> None:
    request, status = RAW[name]
    with socket.create_connection(("127.0.0.1", server.settings.port), timeout=5) as client:
        client.sendall(request)
        answer = b""
        while block := client.recv(65536):
            answer += block
    assert answer[:5] == b"HTTP/"
    assert int(answer.split()[1]) == status
    assert httpx.get(f"{server.url}/health", timeout=5).status_code == 200
