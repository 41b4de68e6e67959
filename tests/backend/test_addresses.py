"""Label Studio below a path: which addresses are its own, and where they lead."""

from __future__ import annotations

import pytest

from backend.addresses import absolute, belongs_to, is_link, is_own_path, served_path

ROOT, BELOW = "http://studio:8080", "https://host/labelstudio"


@pytest.mark.parametrize(
    ("address", "base", "url"),
    [
        ("/data/upload/1/a.mp4", ROOT, f"{ROOT}/data/upload/1/a.mp4"),
        ("/data/upload/1/a.mp4", BELOW, f"{BELOW}/data/upload/1/a.mp4"),
        ("/labelstudio/data/upload/1/a.mp4", BELOW, f"{BELOW}/data/upload/1/a.mp4"),
        ("/labelstudio/data/local-files/?d=a/b.mp4", f"{BELOW}/", f"{BELOW}/data/local-files/?d=a/b.mp4"),
        ("/storage-data/uploaded/?filepath=a", BELOW, f"{BELOW}/storage-data/uploaded/?filepath=a"),
        ("/labelstudio/tasks/5/resolve/?fileuri=czM6", BELOW, f"{BELOW}/tasks/5/resolve/?fileuri=czM6"),
        ("/projects/5/presign/?fileuri=czM6", ROOT, f"{ROOT}/projects/5/presign/?fileuri=czM6"),
    ],
)
def test_own_paths_lead_below_the_base(address: str, base: str, url: str) -> None:
    assert is_own_path(address, base)
    assert absolute(address, base) == url
    assert belongs_to(url, base)


@pytest.mark.parametrize(
    "path",
    [
        "/data/clips/a.mp4",
        "/tasks/a.mp4",
        "/other/data/upload/1/a.mp4",
        "data/upload/a.mp4",
        "/labelstudiox/data/upload/a",
    ],
)
def test_other_paths_are_files_here(path: str) -> None:
    assert not is_own_path(path, BELOW)
    assert absolute(path, BELOW) == path


@pytest.mark.parametrize(
    "url",
    [
        "https://host/other/a.mp4",
        "https://host/labelstudiox/a.mp4",
        "https://host/labelstudio/../other/a.mp4",
        "https://host/labelstudio/%2e%2e/other",
        "http://host/labelstudio/a.mp4",
        "https://host:444/labelstudio/a.mp4",
        "https://host.evil/labelstudio/a.mp4",
    ],
)
def test_what_is_beside_label_studio_is_not_its_own(url: str) -> None:
    assert not belongs_to(url, BELOW)


def test_an_upload_is_written_as_the_pages_need_it() -> None:
    assert served_path("/data/upload/1/a.mp4", BELOW) == "/labelstudio/data/upload/1/a.mp4"
    assert served_path("/data/upload/1/a.mp4", ROOT) == "/data/upload/1/a.mp4"


@pytest.mark.parametrize(("name", "link"), [("cam1-2024:30.mp4", False), ("HTTP://h/a", True), ("https:a", False)])
def test_only_a_scheme_with_slashes_makes_an_address(name: str, link: bool) -> None:
    assert is_link(name) == link
