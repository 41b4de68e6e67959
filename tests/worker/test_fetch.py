"""Fetching a task's video: what is allowed, what is refused, and that a cache never holds half a video."""

from __future__ import annotations

import fcntl
import http.server
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import jwt
import pytest

from backend.addresses import shown_address
from trajseg.errors import CancelledError, LabelStudioError, ServiceError, VideoError
from worker.fetch import FetchPolicy, evict, fetched

BODY = bytes(range(256)) * 4096
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@dataclass
class Origin:
    """A real HTTP server on loopback that answers as the test says and remembers what it was asked."""

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
    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            origin.seen.append((self.command, self.path, dict(self.headers)))
            origin.routes.get(self.path.partition("?")[0], send(404, b"no"))(self)

        do_GET = do_POST = answer

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    origin = Origin(f"http://127.0.0.1:{server.server_port}")
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


def test_a_local_file_of_label_studio_is_asked_for_with_its_query(
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


def test_label_studio_being_down_is_told_apart_from_a_dead_link(policy: FetchPolicy, tmp_path: Path) -> None:
    down = replace(policy, label_studio_url="http://127.0.0.1:9")
    with pytest.raises(LabelStudioError, match=r"Label Studio at http://127\.0\.0\.1:9"):
        fetch("/data/upload/1/v.mp4", tmp_path, down)


def test_a_refused_token_is_told_as_such(origin: Origin, policy: FetchPolicy, tmp_path: Path) -> None:
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
            fetch(f"/data/upload/1/{name}.mp4", tmp_path, replace(policy, max_bytes=500_000))
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
    with pytest.raises(VideoError, match="was not there after"):
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
    origin.routes["/data/upload/1/v.mp4"] = send(200, b"old", ETag='"one"')
    assert fetch("/data/upload/1/v.mp4", tmp_path, policy) == b"old"
    origin.routes["/data/upload/1/v.mp4"] = send(200, b"new", ETag='"two"')
    assert fetch("/data/upload/1/v.mp4", tmp_path, policy) == b"new"


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
    with pytest.raises(ServiceError, match="cannot be kept"):
        fetch("/data/upload/1/v.mp4", tmp_path / "cache", policy)


def test_shown_addresses_hide_what_is_secret() -> None:
    assert shown_address("https://me:pw@host:1/v.mp4?X-Amz-Signature=s#f") == "https://host:1/v.mp4"
    assert shown_address("/data/local-files/?d=media/a.mp4") == "/data/local-files/?d=media/a.mp4"
