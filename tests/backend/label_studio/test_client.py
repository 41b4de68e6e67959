"""The Label Studio client: all kinds of tokens, retries where they are safe, and helpful errors."""

from __future__ import annotations

import socket
from pathlib import Path

import jwt
import pytest

from backend.label_studio.api import token_kind
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.refusals import MissingError, RefusedError
from tests.backend.label_studio.conftest import FakeLabelStudio
from tests.tiny_clip import TinyClip
from trajseg.errors import LabelStudioError

LEGACY = "0123456789abcdef0123456789abcdef01234567"


def test_a_legacy_token_works(client: LabelStudioClient) -> None:
    assert client.token_kind == "legacy"
    assert client.whoami() == "admin@example.com"
    assert client.version() == "1.23.2"


def test_a_personal_access_token_is_exchanged(studio: FakeLabelStudio, personal_token: str) -> None:
    client = LabelStudioClient(studio.url, personal_token)
    assert client.token_kind == "personal access"
    assert client.whoami() == "admin@example.com"
    assert ("POST", "/api/token/refresh") in studio.requests


def test_a_disabled_legacy_token_says_what_to_do(studio: FakeLabelStudio, client: LabelStudioClient) -> None:
    studio.legacy_tokens = False
    with pytest.raises(RefusedError) as refused:
        client.whoami()
    assert "legacy token authentication has been disabled" in refused.value.message
    assert "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN=true" in refused.value.remedy


def test_a_wrong_token_says_where_to_get_one(studio: FakeLabelStudio) -> None:
    with pytest.raises(RefusedError) as refused:
        LabelStudioClient(studio.url, "f" * 40).whoami()
    assert refused.value.status == 401
    assert "LABEL_STUDIO_API_KEY" in refused.value.remedy


@pytest.mark.parametrize("token", ["", "  ", jwt.encode({"token_type": "refresh", "exp": 1}, "k" * 32)])
def test_no_token_and_an_expired_one_are_reported_before_any_request(studio: FakeLabelStudio, token: str) -> None:
    with pytest.raises(LabelStudioError) as refused:
        LabelStudioClient(studio.url, token)
    assert "LABEL_STUDIO_API_KEY" in refused.value.remedy
    assert studio.requests == []


def test_a_revoked_personal_token_says_where_to_get_one(studio: FakeLabelStudio) -> None:
    revoked = jwt.encode({"token_type": "refresh", "exp": 4102444800, "jti": "x"}, "k" * 32)
    with pytest.raises(RefusedError) as refused:
        LabelStudioClient(studio.url, revoked).whoami()
    assert "LABEL_STUDIO_API_KEY" in refused.value.remedy


def test_token_kinds_are_distinguished() -> None:
    assert token_kind(LEGACY) == "legacy"
    assert token_kind(jwt.encode({"token_type": "access"}, "k" * 32)) == "access"


def test_reading_is_tried_again_when_label_studio_is_busy(studio: FakeLabelStudio, client: LabelStudioClient) -> None:
    studio.failures = 3
    assert client.version() == "1.23.2"
    assert len(studio.requests) == 4


def test_after_the_last_try_the_reason_is_reported(studio: FakeLabelStudio, client: LabelStudioClient) -> None:
    studio.failures = 100
    with pytest.raises(LabelStudioError, match="busy"):
        client.version()


def test_making_something_is_not_tried_again_when_it_may_have_happened(
    studio: FakeLabelStudio, client: LabelStudioClient
) -> None:
    studio.failures = 1
    with pytest.raises(LabelStudioError):
        client.create_project("title", "<View/>")
    assert len(studio.requests) == 1


def test_a_refusal_is_not_tried_again_and_tells_the_field(studio: FakeLabelStudio, client: LabelStudioClient) -> None:
    with pytest.raises(RefusedError, match=r"title: Ensure this field has at least 3 characters") as refused:
        client.create_project("x", "<View/>")
    assert refused.value.status == 400
    assert len(studio.requests) == 1


def test_label_studio_being_down_says_where_it_was_looked_for() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(LabelStudioError, match="does not answer") as down:
        LabelStudioClient(url, LEGACY, attempts=2, wait=0.01).whoami()
    assert url in down.value.message
    assert "LABEL_STUDIO_URL" in down.value.remedy


def test_setting_task_data_leaves_other_keys_and_does_nothing_twice(
    studio: FakeLabelStudio, client: LabelStudioClient
) -> None:
    project = studio.add_project()
    task = studio.add_task(project, video="s3://bucket/v.mp4", a=1)
    client.update_task_data(project, task, {"fps": 25.0})
    client.update_task_data(project, task, {"fps": 25.0})
    assert studio.tasks[task]["data"] == {"video": "s3://bucket/v.mp4", "a": 1, "fps": 25.0}
    assert len([one for one in studio.requests if one[0] == "PATCH"]) == 1


def test_a_missing_task_and_a_missing_project_are_reported_as_such(
    studio: FakeLabelStudio, client: LabelStudioClient
) -> None:
    project = studio.add_project()
    with pytest.raises(MissingError, match="no task 99"):
        client.task(project, 99)
    with pytest.raises(MissingError):
        client.project(99)


def test_deleting_what_is_gone_is_no_error(client: LabelStudioClient) -> None:
    client.delete_prediction(99)


def test_a_file_is_uploaded_without_a_task(studio: FakeLabelStudio, client: LabelStudioClient, tmp_path: Path) -> None:
    project = studio.add_project()
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"picture")
    address = client.upload(project, picture)
    assert address.startswith(f"/data/upload/{project}/")
    assert [data for _, data in studio.uploads.values()] == [b"picture"]
    assert studio.tasks == {}


def test_a_server_that_is_not_label_studio_is_reported(tiny_clip: TinyClip) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        import threading

        def answer() -> None:
            connection, _ = server.accept()
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(LabelStudioError):
            LabelStudioClient(url, LEGACY, attempts=1).whoami()
