"""Fetching from a Label Studio below a path, and from servers with certificates of a private authority."""

from __future__ import annotations

import http.server
import json
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jwt
import pytest
import trustme

from backend.fetch import FetchPolicy, fetched
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.setup.doctor import label_studio
from backend.label_studio.setup.videos import local_file
from backend.settings import Settings
from backend.tls import SETTINGS, ssl_context
from trajseg.errors import InputError, LabelStudioError, VideoError

VIDEO = (Path(__file__).parents[2] / "clips" / "variable_frame_rate.mp4").read_bytes()
PERSONAL = jwt.encode({"token_type": "refresh", "exp": 4102444800}, "k" * 32)
ACCESS = jwt.encode({"token_type": "access", "exp": 4102444800}, "k" * 32)


class Studio(http.server.BaseHTTPRequestHandler):
    """A few routes of a Label Studio at /labelstudio; other paths belong to another program."""

    seen: list[tuple[str, str | None]]
    exchange = json.dumps({"access": ACCESS}).encode()

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Authorization")))
        routes = {"/labelstudio/data/upload/1/v.mp4": VIDEO, "/labelstudio/api/version": b'{"release": "1.23.2"}'}
        self._answer(routes.get(self.path.rstrip("/")) or (VIDEO if self.path.startswith("/other") else b""))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.path, None))
        self._answer(self.exchange if self.path == "/labelstudio/api/token/refresh/" else b"")

    def _answer(self, body: bytes) -> None:
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json" if body[:1] == b"{" else "video/mp4")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(certificate: trustme.LeafCert | None = None) -> Iterator[tuple[str, type[Studio]]]:
    handler = type("Handler", (Studio,), {"seen": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"{'https' if certificate else 'http'}://localhost:{server.server_port}", handler
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SETTINGS, "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def fetch(video: str, cache: Path, policy: FetchPolicy) -> bytes:
    with fetched(video, cache, policy) as path:
        return path.read_bytes()


@pytest.mark.parametrize(
    "video", ["/data/upload/1/v.mp4", "/labelstudio/data/upload/1/v.mp4", "{origin}/labelstudio/data/upload/1/v.mp4"]
)
@pytest.mark.parametrize("token", ["c0ffee" * 6, PERSONAL])
def test_uploads_below_a_path(tmp_path: Path, video: str, token: str) -> None:
    with serving() as (origin, handler):
        policy = FetchPolicy(label_studio_url=f"{origin}/labelstudio", label_studio_token=token)
        assert fetch(video.replace("{origin}", origin), tmp_path, policy) == VIDEO
        expected = f"Bearer {ACCESS}" if token == PERSONAL else f"Token {token}"
        assert handler.seen[-1] == ("/labelstudio/data/upload/1/v.mp4", expected)


def test_the_token_is_not_given_to_what_lies_beside_it(tmp_path: Path) -> None:
    with serving() as (origin, handler):
        policy = FetchPolicy(f"{origin}/labelstudio", "c0ffee" * 6, hosts=("localhost",))
        assert fetch(f"{origin}/other/v.mp4", tmp_path, policy) == VIDEO
        assert handler.seen[-1] == ("/other/v.mp4", None)


def test_the_client_exchanges_a_personal_token_below_a_path() -> None:
    with serving() as (origin, handler):
        client = LabelStudioClient(f"{origin}/labelstudio", PERSONAL, attempts=1)
        assert client.version() == "1.23.2"
        client.close()
        assert handler.seen[0] == ("/labelstudio/api/token/refresh/", None)
        assert handler.seen[-1][1] == f"Bearer {ACCESS}"


def test_a_web_page_at_the_exchange_is_called_that(tmp_path: Path) -> None:
    with serving() as (origin, handler):
        handler.exchange = b"<!DOCTYPE html><title>Sign in</title>"
        policy = FetchPolicy(f"{origin}/labelstudio", PERSONAL)
        with pytest.raises(LabelStudioError, match="a web page") as caught:
            fetch("/data/upload/1/v.mp4", tmp_path, policy)
        assert "LABEL_STUDIO_URL" in caught.value.remedy
        client = LabelStudioClient(f"{origin}/labelstudio", PERSONAL, attempts=1)
        with pytest.raises(LabelStudioError, match="is not Label Studio"):
            client.whoami()
        client.close()


@pytest.mark.parametrize("name", ["company.cer", "company.der", "company.crt", "company.pem"])
def test_certificates_may_lie_in_several_folders_and_in_binary_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: trustme.CA, name: str
) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    pem = authority.cert_pem.bytes()
    (tmp_path / "second" / name).write_bytes(
        ssl.PEM_cert_to_DER_cert(pem.decode()) if name.endswith(("cer", "der")) else pem
    )
    monkeypatch.setenv("SSL_CERT_DIR", os.pathsep.join([str(tmp_path / "first"), str(tmp_path / "second"), ""]))
    with serving(authority.issue_cert("localhost")) as (origin, _):
        client = LabelStudioClient(f"{origin}/labelstudio", "c0ffee" * 6, attempts=1)
        assert client.version() == "1.23.2"
        client.close()


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\x30\x82\x00\x05half"])
def test_a_setting_that_names_no_certificates_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)
    monkeypatch.setenv(setting, str(tmp_path / "ca.pem"))
    with pytest.raises(InputError, match=f"{setting} is .*ca.pem") as caught:
        ssl_context()
    assert "PEM" in caught.value.remedy


def test_authorities_are_loaded_once_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: trustme.CA
) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(authority.cert_pem.bytes())
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    first = ssl_context()
    assert ssl_context() is first
    file.write_bytes(trustme.CA().cert_pem.bytes() + authority.cert_pem.bytes())
    second = ssl_context()
    assert second is not first
    assert len(second.get_ca_certs()) == len(first.get_ca_certs()) + 1
    monkeypatch.delenv("SSL_CERT_DIR")
    assert ssl_context() not in (first, second)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_company_s_authority_is_trusted_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: trustme.CA, setting: str
) -> None:
    (tmp_path / "authorities").mkdir()
    authority.cert_pem.write_to_path(str(tmp_path / "authorities" / "company.pem"))
    named = tmp_path / "authorities"
    monkeypatch.setenv(setting, str(named if setting.endswith("DIR") else named / "company.pem"))
    with serving(authority.issue_cert("localhost")) as (origin, _):
        policy = FetchPolicy(f"{origin}/labelstudio", "c0ffee" * 6, hosts=("localhost",))
        client = LabelStudioClient(f"{origin}/labelstudio", "c0ffee" * 6, attempts=1)
        assert client.version() == "1.23.2"
        client.close()
        assert label_studio(Settings(label_studio_url=f"{origin}/labelstudio")).state == "ok"
        with local_file(f"{origin}/other/v.mp4", 10**6) as path:
            assert path.read_bytes() == VIDEO
        # Downloads still ignore proxies.
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        assert fetch("/data/upload/1/v.mp4", tmp_path / "cache", policy) == VIDEO


def test_where_it_is_not_trusted_the_setting_is_named(tmp_path: Path, authority: trustme.CA) -> None:
    with serving(authority.issue_cert("localhost")) as (origin, _):
        url = f"{origin}/labelstudio"
        policy = FetchPolicy(url, "c0ffee" * 6, hosts=("localhost",))
        client = LabelStudioClient(url, "c0ffee" * 6, attempts=1)
        with pytest.raises(LabelStudioError) as asked:
            client.version()
        client.close()
        with pytest.raises(LabelStudioError) as own:
            fetch("/data/upload/1/v.mp4", tmp_path, policy)
        with pytest.raises((VideoError, LabelStudioError)) as other:
            fetch(f"{origin}/other/v.mp4", tmp_path, policy)
        with pytest.raises(VideoError) as looked, local_file(f"{origin}/other/v.mp4", 10**6):
            pass
        for caught in (asked, own, other, looked):
            assert "SSL_CERT_FILE" in caught.value.remedy
        assert "SSL_CERT_FILE" in label_studio(Settings(label_studio_url=url)).remedy


def test_a_certificate_of_another_name_is_another_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: trustme.CA
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "company.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "company.pem"))
    with serving(authority.issue_cert("elsewhere.example")) as (origin, _):
        with pytest.raises(VideoError) as caught:
            fetch(f"{origin}/other/v.mp4", tmp_path / "cache", FetchPolicy(hosts=("localhost",)))
        assert "name" in caught.value.remedy
        assert "SSL_CERT_FILE" not in caught.value.remedy


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_setting_that_names_no_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(InputError, match=r"SSL_CERT_FILE is .*ca\.pem"):
        LabelStudioClient("https://localhost:1", "c0ffee" * 6)
    check = label_studio(Settings(label_studio_url="https://localhost:1"))
    assert check.state == "fail"
    assert "SSL_CERT_FILE" in check.words
