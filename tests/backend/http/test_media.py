"""Signed links: a link opens its shown frame, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr

from backend.http.media import media_url
from backend.settings import Settings
from backend.store import Store
from trajseg.errors import InputError

PICTURE = bytes(range(256)) * 10


@pytest.fixture
def link(settings: Settings) -> str:
    folder = settings.media_dir / "job"
    folder.mkdir(parents=True)
    (folder / "000015.jpg").write_bytes(PICTURE)
    return urlsplit(media_url(settings, "job/000015.jpg")).path


def test_link_opens_its_file_from_any_origin(client: FlaskClient, link: str) -> None:
    answer = client.get(link, headers={"Origin": "http://studio:8080"})
    assert answer.data == PICTURE
    assert answer.content_type == "image/jpeg"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert answer.headers["Cache-Control"] == "private, no-cache"


def test_parts_of_a_file_are_served(client: FlaskClient, link: str) -> None:
    answer = client.get(link, headers={"Range": "bytes=10-19"})
    assert answer.status_code == 206
    assert answer.data == PICTURE[10:20]
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


def test_an_unchanged_file_is_not_sent_again(client: FlaskClient, link: str) -> None:
    etag = client.get(link).headers["ETag"]
    assert client.get(link, headers={"If-None-Match": etag}).status_code == 304


def test_the_preflight_of_a_browser_is_answered(client: FlaskClient, link: str) -> None:
    answer = client.options(link, headers={"Access-Control-Request-Method": "GET"})
    assert answer.status_code == 204
    assert "GET" in answer.headers["Access-Control-Allow-Methods"]


def test_an_origin_can_be_set(client: FlaskClient, link: str, settings: Settings) -> None:
    settings.cors_origins = "http://studio:8080"
    assert client.get(link).headers["Access-Control-Allow-Origin"] == "http://studio:8080"


def test_links_are_under_the_public_url(settings: Settings) -> None:
    assert media_url(settings, "job/000015.jpg").startswith("http://127.0.0.1:9090/media/")
    public = Settings(data_dir=settings.data_dir, public_url="https://trajseg.example/base/")
    url = media_url(public, "job/000015.jpg")
    assert url.startswith("https://trajseg.example/base/media/")
    assert url.endswith("/000015.jpg")


@pytest.mark.parametrize("path", ["../secret_key", "/etc/passwd", "job/../../x", "", "."])
def test_no_link_to_files_outside_the_media_folder(path: str, settings: Settings) -> None:
    with pytest.raises(InputError):
        media_url(settings, path)


def test_a_changed_or_foreign_link_is_refused(client: FlaskClient, link: str, settings: Settings) -> None:
    _, media, token, name = link.split("/")
    assert client.get(f"/{media}/{token[:-2]}xx/{name}").status_code == 403
    assert client.get(f"/{media}/{token}/secret_key").status_code == 404
    foreign = Settings(data_dir=settings.data_dir, secret_key=SecretStr("another"))
    assert client.get(urlsplit(media_url(foreign, "job/000015.jpg")).path).status_code == 403
    assert client.get(urlsplit(media_url(settings, "job/none.jpg")).path).status_code == 404


def test_expired_link_has_a_clear_error(client: FlaskClient, link: str, settings: Settings) -> None:
    settings.media_link_hours = -1
    answer = client.get(link)
    assert answer.status_code == 410
    assert "expired" in answer.get_json()["error"]


def test_the_signing_key_is_made_once_and_kept_private(settings: Settings) -> None:
    key = settings.signing_key()
    assert len(key) >= 40
    assert Settings(data_dir=settings.data_dir).signing_key() == key
    assert (settings.data_dir / "secret_key").stat().st_mode & 0o077 == 0
    assert Settings(data_dir=settings.data_dir, secret_key=SecretStr("mine")).signing_key() == "mine"


def test_viewing_a_picture_marks_its_task_as_open(
    client: FlaskClient, settings: Settings, store: Store, predict_body: Callable[..., dict[str, Any]]
) -> None:
    client.post("/predict", json=predict_body(1, 2))
    job = next(job for job in store.jobs.newest() if job.task_id == 1)
    picture = settings.media_dir / job.id / "000000.jpg"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"x")
    assert job.project_id is not None
    assert not store.tasks.is_open(job.project_id, 1, hours=1)
    url = media_url(settings, f"{job.id}/000000.jpg").removeprefix(settings.external_url)
    assert client.get(url).status_code == 200
    assert store.tasks.is_open(job.project_id, 1, hours=1)
    assert not store.tasks.is_open(job.project_id, 2, hours=1)
    assert not store.tasks.is_open(job.project_id, 1, hours=0)


def test_a_task_requested_alone_may_be_open_on_a_page(
    client: FlaskClient, store: Store, predict_body: Callable[..., dict[str, Any]]
) -> None:
    client.post("/predict", json=predict_body(3, 4))
    project = store.projects.of_label_studio(7).id
    assert not store.tasks.is_open(project, 3, hours=1)
    client.post("/predict", json=predict_body(3))
    assert store.tasks.is_open(project, 3, hours=1)
