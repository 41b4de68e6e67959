"""Fetching a task's video: what is allowed, what is refused, and that the cache never has half a video."""

from __future__ import annotations

import fcntl
import gzip
import http.server
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jwt
import pytest

from backend.addresses import shown_address
from backend.fetch import BusyServerError, FetchPolicy, evict, fetched, is_video
from backend.fetch.policy import is_public
from backend.label_studio.refusals import UnavailableError
from trajseg.errors import CancelledError, LabelStudioError, ServiceError, VideoError

BODY = (Path(__file__).parents[2] / "clips" / "yellow_box.mp4").read_bytes()
OTHER_BODY = (Path(__file__).parents[2] / "clips" / "variable_frame_rate.mp4").read_bytes()
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@dataclass
class Origin:
    """A real HTTP server on loopback with scripted answers; it records its requests."""

    url: str
    routes: dict[str, Answer] = field(default_factory=dict)
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)


def send(status: int = 200, body: bytes = BODY, **headers: str) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {"Content-Length": str(len(body)), "Content-Type": "video/mp4", **named}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@contextmanager
def serving() -> Iterator[Origin]:
    seen: list[tuple[str, str, dict[str, str]]] = []
    routes: dict[str, Answer] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            seen.append((self.command, self.path, dict(self.headers)))
            routes.get(self.path.partition("?")[0], send(404, b"no"))(self)

        do_GET = do_POST = answer

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    origin = Origin(f"http://127.0.0.1:{server.server_port}", routes, seen)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield origin
    server.shutdown()
    server.server_close()


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serving() as running:
        yield running


@pytest.fixture
def other() -> Iterator[Origin]:
    with serving() as running:
        yield running


@pytest.fixture
def policy(origin: Origin) -> FetchPolicy:
    return FetchPolicy(label_studio_url=origin.url, label_studio_token="c0ffee" * 6)


def fetch(video: str, cache: Path, policy: FetchPolicy) -> bytes:
    with fetched(video, cache, policy) as path:
        return path.read_bytes()


def test_an_upload_is_fetched_from_label_studio_with_the_token(
    origin: Origin, policy: FetchPolicy, tmp_path: Path
) -> None:
    origin.routes["/data/upload/6/a1-clip.mp4"] = send()
    with fetched("/data/upload/6/a1-clip.mp4", tmp_path, policy) as path:
        assert path.read_bytes() == BODY
        assert path.suffix == ".mp4"
    assert origin.seen[0][2]["Authorization"] == f"Token {'c0ffee' * 6}"


def test_a_local_file_of_label_studio_is_requested_with_its_query(
    origin: Origin, policy: FetchPolicy, tmp_path: Path
) -> None:
    origin.routes["/data/local-files/"] = send()
    with fetched("/data/local-files/?d=media/clip%20one.webm", tmp_path, policy) as path:
        assert path.suffix == ".webm"
    assert origin.seen[0][1] == "/data/local-files/?d=media/clip%20one.webm"


def test_a_personal_access_token_is_exchanged_first(origin: Origin, policy: FetchPolicy, tmp_path: Path) -> None:
    origin.routes["/api/token/refresh/"] = send(200, b'{"access": "short-lived"}', Content_Type="application/json")
    origin.routes["/data/upload/1/v.mp4"] = send()
    personal = jwt.encode({"token_type": "refresh"}, "a secret of at least 32 characters")
    assert fetch("/data/upload/1/v.mp4", tmp_path, replace(policy, label_studio_token=personal)) == BODY
    assert origin.seen[-1][2]["Authorization"] == "Bearer short-lived"


def test_the_token_does_not_follow_a_redirect_to_another_host(
    origin: Origin, other: Origin, policy: FetchPolicy, tmp_path: Path
) -> None:
    origin.routes["/data/upload/1/v.mp4"] = send(302, b"", Location=f"{other.url}/bucket/v.mp4?signature=1")
    other.routes["/bucket/v.mp4"] = send()
    named = replace(policy, hosts=(other.url.removeprefix("http://"),))
    assert fetch("/data/upload/1/v.mp4", tmp_path, named) == BODY
    assert "Authorization" in origin.seen[0][2]
    assert "Authorization" not in other.seen[0][2]


def test_a_redirect_to_a_private_host_is_refused(
    origin: Origin, other: Origin, policy: FetchPolicy, tmp_path: Path
) -> None:
    origin.routes["/data/upload/1/v.mp4"] = send(302, b"", Location=f"{other.url}/secret")
    with pytest.raises(VideoError, match="not allowed"):
        fetch("/data/upload/1/v.mp4", tmp_path, policy)
    assert other.seen == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "169.254.169.254", "10.0.0.8"])
def test_a_private_address_is_refused_even_when_every_public_host_is_allowed(
    host: str, policy: FetchPolicy, tmp_path: Path
) -> None:
    with pytest.raises(VideoError, match="private address"):
        fetch(f"http://{host}:9/clip.mp4", tmp_path, replace(policy, hosts=("*",)))


def test_a_host_that_nobody_allowed_is_refused_with_the_setting_that_allows_it(
    policy: FetchPolicy, tmp_path: Path
) -> None:
    with pytest.raises(VideoError, match=r"videos\.example.*not allowed") as caught:
        fetch("https://videos.example/clip.mp4?token=hunter2", tmp_path, policy)
    assert "TRAJSEG_MEDIA_HOSTS" in caught.value.remedy
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "video",
    [
        "ftp://127.0.0.1/clip.mp4",
        "gopher://127.0.0.1/1",
        "s3://bucket/clip.mp4",
        "data:video/mp4;base64,AAAA",
        "http:///clip.mp4",
        "http://[::1/clip.mp4",
        "http://127.0.0.1:99999/clip.mp4",
    ],
)
def test_an_address_that_is_no_video_address_is_refused(video: str, policy: FetchPolicy, tmp_path: Path) -> None:
    with pytest.raises(VideoError):
        fetch(video, tmp_path, policy)


def test_a_dead_link_is_named(origin: Origin, policy: FetchPolicy, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"/data/upload/1/gone\.mp4.*404"):
        fetch("/data/upload/1/gone.mp4", tmp_path, policy)


def test_label_studio_being_down_is_distinguished_from_a_dead_link(policy: FetchPolicy, tmp_path: Path) -> None:
    down = replace(policy, label_studio_url="http://127.0.0.1:9")
    with pytest.raises(LabelStudioError, match=r"Label Studio at http://127\.0\.0\.1:9"):
        fetch("/data/upload/1/v.mp4", tmp_path, down)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_distinguished_with_its_retry_after(
    status: int, origin: Origin, other: Origin, policy: FetchPolicy, tmp_path: Path
) -> None:
    for server in (origin, other):
        server.routes["/data/upload/1/busy.mp4"] = send(status, b"later", Retry_After="7")
    with pytest.raises(UnavailableError, match=str(status)) as label_studio:
        fetch("/data/upload/1/busy.mp4", tmp_path, policy)
    assert label_studio.value.retry_after == 7
    allowed = replace(policy, hosts=("127.0.0.1",))
    with pytest.raises(BusyServerError, match=str(status)) as elsewhere:
        fetch(f"{other.url}/data/upload/1/busy.mp4", tmp_path, allowed)
    assert elsewhere.value.retry_after == 7


def test_a_refused_token_is_reported_as_such(origin: Origin, policy: FetchPolicy, tmp_path: Path) -> None:
    origin.routes["/data/upload/1/v.mp4"] = send(401, b"{}")
    with pytest.raises(LabelStudioError) as caught:
        fetch("/data/upload/1/v.mp4", tmp_path, policy)
    assert "LABEL_STUDIO_API_KEY" in caught.value.remedy


def test_a_web_page_is_not_taken_for_a_video(origin: Origin, policy: FetchPolicy, tmp_path: Path) -> None:
    origin.routes["/data/upload/1/v.mp4"] = send(200, b"\n<!DOCTYPE html><html>log in</html>")
    with pytest.raises(VideoError, match="web page"):
        fetch("/data/upload/1/v.mp4", tmp_path, policy)


def leftovers(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def test_a_video_that_is_too_large_leaves_nothing_behind(origin: Origin, policy: FetchPolicy, tmp_path: Path) -> None:
    def endless(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(BODY)

    origin.routes["/data/upload/1/says.mp4"] = send()
    origin.routes["/data/upload/1/hides.mp4"] = endless
    for name in ("says", "hides"):
        with pytest.raises(VideoError, match="larger than"):
            fetch(f"/data/upload/1/{name}.mp4", tmp_path, replace(policy, max_bytes=len(BODY) // 2))
    assert leftovers(tmp_path) == []


def test_a_download_that_breaks_off_leaves_nothing_behind(origin: Origin, policy: FetchPolicy, tmp_path: Path) -> None:
    origin.routes["/data/upload/1/v.mp4"] = send(200, BODY, Content_Length=str(2 * len(BODY)))
    with pytest.raises((VideoError, LabelStudioError)):
        fetch("/data/upload/1/v.mp4", tmp_path, policy)
    assert leftovers(tmp_path) == []


def slowly(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        time.sleep(0.05)
        try:
            handler.wfile.write(BODY)
        except OSError:
            return


def test_a_slow_download_is_given_up(origin: Origin, policy: FetchPolicy, tmp_path: Path) -> None:
    origin.routes["/data/upload/1/v.mp4"] = slowly
    with pytest.raises(VideoError, match="was not downloaded within"):
        fetch("/data/upload/1/v.mp4", tmp_path, replace(policy, max_seconds=0.3))
    assert leftovers(tmp_path) == []


def test_a_cancelled_job_stops_its_download(origin: Origin, policy: FetchPolicy, tmp_path: Path) -> None:
    origin.routes["/data/upload/1/v.mp4"] = slowly

    def tick() -> None:
        raise CancelledError("cancelled")

    with pytest.raises(CancelledError), fetched("/data/upload/1/v.mp4", tmp_path, policy, tick):
        pass
    assert leftovers(tmp_path) == []


def test_an_unchanged_video_is_not_downloaded_twice(origin: Origin, policy: FetchPolicy, tmp_path: Path) -> None:
    def changing(handler: http.server.BaseHTTPRequestHandler) -> None:
        unchanged = handler.headers.get("If-None-Match") == '"one"'
        send(304, b"", ETag='"one"')(handler) if unchanged else send(200, BODY, ETag='"one"')(handler)

    origin.routes["/data/upload/1/v.mp4"] = changing
    assert fetch("/data/upload/1/v.mp4", tmp_path, policy) == BODY
    assert fetch("/data/upload/1/v.mp4", tmp_path, policy) == BODY
    assert origin.seen[1][2]["If-None-Match"] == '"one"'


def test_a_changed_video_is_downloaded_again(origin: Origin, policy: FetchPolicy, tmp_path: Path) -> None:
    origin.routes["/data/upload/1/v.mp4"] = send(200, BODY, ETag='"one"')
    assert fetch("/data/upload/1/v.mp4", tmp_path, policy) == BODY
    origin.routes["/data/upload/1/v.mp4"] = send(200, OTHER_BODY, ETag='"two"')
    assert fetch("/data/upload/1/v.mp4", tmp_path, policy) == OTHER_BODY


def test_eviction_takes_the_least_recently_used_and_spares_what_is_in_use(tmp_path: Path) -> None:
    paths = []
    for age, name in enumerate(["new", "old", "oldest"]):
        path = tmp_path / name / "video.mp4"
        path.parent.mkdir()
        path.write_bytes(b"x" * 100)
        os.utime(path, (1_000_000 - age, 1_000_000 - age))
        paths.append(path)
    new, old, oldest = paths
    with oldest.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        assert evict(tmp_path, 200) == [old]
    assert new.exists()
    assert oldest.exists()


def test_a_video_that_nobody_has_used_for_long_is_deleted_unless_it_is_in_use(tmp_path: Path) -> None:
    paths = []
    for days in (40, 35, 5):
        path = tmp_path / str(days) / "video.mp4"
        path.parent.mkdir()
        path.write_bytes(b"x")
        os.utime(path, (time.time() - days * 86400,) * 2)
        paths.append(path)
    with paths[1].open("rb") as used:
        fcntl.flock(used, fcntl.LOCK_SH)
        assert evict(tmp_path, 1000, 30 * 86400) == [paths[0]]
    assert [path.exists() for path in paths] == [False, True, True]
    assert evict(tmp_path, 1000) == []


def test_a_path_in_an_allowed_folder_is_used_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    video = tmp_path / "media" / "clip.mp4"
    video.write_bytes(b"clip")
    policy = FetchPolicy(folders=(tmp_path / "media",))
    for name in (str(video), f"file://{video}", "clip.mp4"):
        with fetched(name, tmp_path / "cache", policy) as path:
            assert path == video.resolve()


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.mp4", "link.mp4", "file:///etc/passwd"])
def test_a_path_outside_the_allowed_folders_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (tmp_path / "media" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    with pytest.raises(VideoError):
        fetch(name, tmp_path / "cache", FetchPolicy(folders=(tmp_path / "media",)))


def test_a_missing_file_in_an_allowed_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"no video.*gone\.mp4"):
        fetch(str(tmp_path / "gone.mp4"), tmp_path / "cache", FetchPolicy(folders=(tmp_path,)))


def test_a_task_without_a_video_says_so(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="names no video"):
        fetch("", tmp_path, FetchPolicy())


def test_a_cache_that_cannot_be_written_is_the_machines_fault(
    origin: Origin, policy: FetchPolicy, tmp_path: Path
) -> None:
    origin.routes["/data/upload/1/v.mp4"] = send()
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(ServiceError, match="cannot be stored"):
        fetch("/data/upload/1/v.mp4", tmp_path / "cache", policy)


def test_shown_addresses_hide_what_is_secret() -> None:
    assert shown_address("https://me:pw@host:1/v.mp4?X-Amz-Signature=s#f") == "https://host:1/v.mp4"
    assert shown_address("/data/local-files/?d=media/a.mp4") == "/data/local-files/?d=media/a.mp4"


API = "/api/current-user/whoami"
SECRET = json.dumps({"email": "admin@example.com", "token": "c0ffee"}).encode()


@pytest.mark.parametrize(
    "path",
    [
        "/data/upload/../../api/current-user/whoami",
        "/data/upload/%2e%2e/%2e%2e/api/current-user/whoami",
        "/data/upload/%252e%252e/%252e%252e/api/current-user/whoami",
        "/data/upload/..%2f..%2fapi/current-user/whoami",
        "/data/upload/..\\..\\api/current-user/whoami",
        "/data/upload/..%5c..%5capi/current-user/whoami",
        "/data/upload/..;/..;/api/current-user/whoami",
        "/data/upload/./1/v.mp4",
        "/data/upload/%00/v.mp4",
        "/data/upload/%" + "25" * 6 + "2e/v.mp4",
        "/data/local-files/../../api/current-user/whoami",
        "/storage-data/../api/current-user/whoami",
        "/tasks/1/../../api/current-user/whoami",
        "/tasks/1/annotations/",
        "/tasks/x/resolve/",
        "/data/other",
        "/projects/1/",
    ],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_nothing_of_label_studio_is_requested_but_its_files(
    path: str, absolute: bool, origin: Origin, policy: FetchPolicy, tmp_path: Path
) -> None:
    origin.routes[API] = send(200, SECRET)
    with pytest.raises(VideoError):
        fetch(origin.url + path if absolute else path, tmp_path, policy)
    assert origin.seen == []


def test_the_api_is_not_requested_by_its_own_address(origin: Origin, policy: FetchPolicy, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="not a file that it stores"):
        fetch(origin.url + API, tmp_path, policy)
    assert origin.seen == []


@pytest.mark.parametrize(
    "path",
    [
        "/data/upload/1/v.mp4",
        "/data/local-files/?d=v.mp4",
        "/storage-data/uploaded/?filepath=v.mp4",
        "/tasks/3/resolve/?fileuri=czM6Ly9i",
        "/tasks/3/presign/?fileuri=czM6Ly9i",
        "/projects/3/resolve/?fileuri=czM6Ly9i",
    ],
)
@pytest.mark.parametrize("prefix", ["", "/label-studio"])
def test_each_place_where_label_studio_keeps_files_gets_the_token(
    path: str, prefix: str, origin: Origin, policy: FetchPolicy, tmp_path: Path
) -> None:
    below = replace(policy, label_studio_url=origin.url + prefix)
    origin.routes[prefix + path.partition("?")[0]] = send()
    for number, video in enumerate((path, prefix + path, origin.url + prefix + path)):
        assert fetch(video, tmp_path / str(number), below) == BODY
    assert all(headers["Authorization"] == f"Token {'c0ffee' * 6}" for _, _, headers in origin.seen)


def test_a_path_beside_the_prefix_gets_no_token(origin: Origin, policy: FetchPolicy, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="not a file that it stores"):
        fetch(
            f"{origin.url}/data/upload/1/v.mp4",
            tmp_path,
            replace(policy, label_studio_url=f"{origin.url}/label-studio"),
        )
    assert origin.seen == []


@pytest.mark.parametrize("target", [API, "/data/upload/../../api/current-user/whoami"])
def test_a_redirect_does_not_lead_to_the_api(
    target: str, origin: Origin, other: Origin, policy: FetchPolicy, tmp_path: Path
) -> None:
    named = replace(policy, hosts=(other.url.removeprefix("http://"),))
    other.routes["/v.mp4"] = send(302, b"", Location=origin.url + target)
    origin.routes["/data/upload/1/v.mp4"] = send(302, b"", Location=target)
    origin.routes[API] = send(200, SECRET)
    for video in (f"{other.url}/v.mp4", "/data/upload/1/v.mp4"):
        with pytest.raises(VideoError):
            fetch(video, tmp_path, named)
    assert API not in [path for _, path, _ in origin.seen]
    assert leftovers(tmp_path) == []


def test_no_token_is_sent_after_a_redirect_from_elsewhere(
    origin: Origin, other: Origin, policy: FetchPolicy, tmp_path: Path
) -> None:
    named = replace(policy, hosts=(other.url.removeprefix("http://"),))
    other.routes["/v.mp4"] = send(302, b"", Location=f"{origin.url}/data/upload/2/private.mp4")
    origin.routes["/data/upload/2/private.mp4"] = send()
    fetch(f"{other.url}/v.mp4", tmp_path, named)
    assert "Authorization" not in origin.seen[0][2]


def test_what_is_not_a_video_is_not_kept(origin: Origin, policy: FetchPolicy, tmp_path: Path) -> None:
    playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    for number, body in enumerate((SECRET, playlist, b"", os.urandom(4096), BODY[:100])):
        origin.routes[f"/data/upload/1/{number}.mp4"] = send(200, body)
        with pytest.raises(VideoError, match=f"/data/upload/1/{number}.mp4"):
            fetch(f"/data/upload/1/{number}.mp4", tmp_path, policy)
    assert leftovers(tmp_path) == []


def test_a_file_is_a_video_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(SECRET)
    (tmp_path / "b.txt").write_bytes(BODY)
    assert not is_video(tmp_path / "a.mp4")
    assert is_video(tmp_path / "b.txt")
    assert not is_video(tmp_path / "gone.mp4")


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "0",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fec0::1]",
        "[fe80::1]",
        "[fd00::1]",
        "localhost.",
        "user@127.0.0.1",
        "public.example:80@127.0.0.1",
        "100.64.0.1",
        "224.0.0.1",
    ],
)
def test_a_private_address_in_disguise_is_refused(host: str, policy: FetchPolicy, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"private address|cannot be resolved"):
        fetch(f"http://{host}/clip.mp4", tmp_path, replace(policy, hosts=("*",)))


def test_addresses_that_wrap_others_are_not_public() -> None:
    wrapped = ("64:ff9b::808:808", "64:ff9b:1::1", "2002:808:808::1", "2001:0:1::1", "fec0::1", "::8.8.8.8", "::1")
    assert [address for address in wrapped if is_public(address)] == []
    assert all(map(is_public, ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8")))


def test_a_name_that_changes_its_address_is_connected_to_where_it_was_checked(
    origin: Origin, policy: FetchPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = socket.getaddrinfo, []

    def changing(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "videos.example":
            return real(host, port, *args, **kwargs)
        asked.append(host)
        return real("127.0.0.1" if len(asked) == 1 else "192.0.2.1", port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    origin.routes["/v.mp4"] = send()
    port = origin.url.rpartition(":")[2]
    named = replace(policy, hosts=("videos.example",))
    assert fetch(f"http://videos.example:{port}/v.mp4", tmp_path, named) == BODY
    assert len(asked) == 1
    assert origin.seen[0][2]["Host"] == f"videos.example:{port}"


def test_one_private_address_among_public_ones_is_enough_to_refuse(
    policy: FetchPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: both)
    with pytest.raises(VideoError, match="private address"):
        fetch("http://videos.example/v.mp4", tmp_path, replace(policy, hosts=("*",)))


def drip(part: bytes) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        if part == b"x":
            handler.send_response(200)
            handler.end_headers()
        else:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for _ in range(200):
            time.sleep(0.05)
            try:
                handler.wfile.write(part)
            except OSError:
                return

    return answer


@pytest.mark.parametrize("part", [b"x", b"X-A: b\r\n"], ids=["bytes", "headers"])
def test_a_drip_ends_at_the_total_time(part: bytes, origin: Origin, policy: FetchPolicy, tmp_path: Path) -> None:
    origin.routes["/data/upload/1/v.mp4"] = drip(part)
    started = time.monotonic()
    with pytest.raises(VideoError, match="was not downloaded within"):
        fetch("/data/upload/1/v.mp4", tmp_path, replace(policy, max_seconds=0.5))
    assert time.monotonic() - started < 2
    assert leftovers(tmp_path) == []


def test_a_cancel_reaches_a_server_that_says_nothing(origin: Origin, policy: FetchPolicy, tmp_path: Path) -> None:
    origin.routes["/data/upload/1/v.mp4"] = lambda handler: time.sleep(4)

    def tick() -> None:
        raise CancelledError("cancelled")

    started = time.monotonic()
    with pytest.raises(CancelledError), fetched("/data/upload/1/v.mp4", tmp_path, policy, tick):
        pass
    assert time.monotonic() - started < 3


def test_a_compressed_answer_is_not_unpacked(origin: Origin, policy: FetchPolicy, tmp_path: Path) -> None:
    origin.routes["/data/upload/1/v.mp4"] = send(200, gzip.compress(bytes(10_000_000)), Content_Encoding="gzip")
    with pytest.raises(VideoError, match="compressed"):
        fetch("/data/upload/1/v.mp4", tmp_path, policy)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", ["a\0b.mp4", "x" * 300, "file://%00", "file:/etc/passwd", "//127.0.0.1/v.mp4", "loop"])
def test_an_invalid_path_is_an_error_of_the_task(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(VideoError):
        fetch(name, tmp_path / "cache", FetchPolicy(folders=(tmp_path,)))
