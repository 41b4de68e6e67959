"""A project's export over HTTP: a zip that is streamed while it is written."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient

from backend.composition import compose
from backend.exporting import ProjectExport
from backend.http.app import create_app
from backend.http.exports import zipped
from backend.queue import JobQueue
from backend.settings import Settings
from backend.store import Change, ReadAnnotation, Store
from trajseg.cli import main
from trajseg.data.sides import side_of
from trajseg.files import content_hash
from trajseg.tracks import MaskTrack, Result, rle
from trajseg.tracks.formats import format_names, load_format


def put(store: Store, project_id: int, task: int, result: Result) -> None:
    job, _ = store.jobs.add("prelabel", project_id, task, result.video, result.instruction, "prelabel")
    store.runs.finish(job.id, store.runs.start(job.id) or "", result)


@pytest.fixture
def project(store: Store, result: Result) -> int:
    project_id = store.projects.upsert(7, "http://studio", "<View/>", title="Cars").id
    put(store, project_id, 1, result)
    return project_id


@pytest.fixture
def playable(settings: Settings, store: Store, project: int, queue: JobQueue, tiny_clip: Any) -> FlaskClient:
    """A backend that may read the tiny clip's folder, whose task 2 has the tiny clip."""
    settings = settings.model_copy(update={"media_dirs": (str(tiny_clip.path.parent),)})
    times = [index / 12 for index in range(12)]
    track = MaskTrack.from_masks("t1", tiny_clip.red, times, [0.9] * 12, label="track-1")
    put(store, project, 2, Result(str(tiny_clip.path), 12.0, 96, 64, 12, "the red square", "", "tiny", [track]))
    return create_app(compose(settings, store, queue)).test_client()


def opened(answer: Any) -> zipfile.ZipFile:
    assert answer.status_code == 200, answer.text
    archive = zipfile.ZipFile(io.BytesIO(answer.data))
    assert archive.testzip() is None
    return archive


@pytest.mark.usefixtures("project")
def test_zip_contains_the_format_s_files(client: FlaskClient) -> None:
    answer = client.get("/projects/7/export?format=youtube-vis")
    assert answer.mimetype == "application/zip"
    assert 'filename="project-7-youtube-vis.zip"' in answer.headers["Content-Disposition"]
    archive = opened(answer)
    assert archive.namelist() == ["instances.json"]
    assert len(json.loads(archive.read("instances.json"))["annotations"]) == 1
    assert (
        json.loads(opened(client.get("/projects/7/export?format=youtube-vis&annotated=1")).read("instances.json"))[
            "videos"
        ]
        == []
    )


def test_pictures_of_local_videos_are_included_and_others_listed(playable: FlaskClient) -> None:
    archive = opened(playable.get("/projects/7/export?format=davis&pictures=1"))
    assert "JPEGImages/Full-Resolution/task-2/00011.jpg" in archive.namelist()
    assert archive.read("ImageSets/2017/train.txt") == b"task-2\n"
    assert b"task 1: the video is not on this machine" in archive.read("skipped.txt")


@pytest.mark.parametrize("name", format_names())
def test_the_zip_has_what_the_command_writes(
    playable: FlaskClient,
    settings: Settings,
    store: Store,
    tiny_clip: Any,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRAJSEG_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("TRAJSEG_MEDIA_DIRS", str(tiny_clip.path.parent))
    words = ["export", "--project", "7", "--format", name, "--out", str(tmp_path / "out")]
    assert "1 clip in" in CliRunner().invoke(main, words).output, "the video of task 1 is gone"
    archive = opened(playable.get(f"/projects/7/export?format={name}&pictures=1"))
    written = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    assert set(archive.namelist()) == {*written, "skipped.txt"}
    for file in written:
        assert archive.read(file) == (tmp_path / "out" / file).read_bytes(), file


@pytest.mark.parametrize("corrected", [False, True])
def test_the_zip_names_the_side_that_a_video_keeps(
    playable: FlaskClient, store: Store, project: int, tiny_clip: Any, corrected: bool
) -> None:
    """And decides it, as any export does, if the video has corrections."""
    identity = f"sha256:{content_hash(tiny_clip.path)}"
    if corrected:
        (job,) = (job for job in store.jobs.newest() if job.task_id == 2)
        seen = Change("track-1", 0, "unchanged", "t1", job.id, "tiny", rle.encode(tiny_clip.red[0]))
        store.corrections.record(ReadAnnotation(project, 2, 12, "v1", store.now(), "", job.id), [seen])
    archive = opened(playable.get("/projects/7/export?format=trajseg&pictures=1"))
    (clip,) = json.loads(archive.read("manifest.json"))["clips"]
    assert clip.get("side") == store.sides.of(project, identity) == (side_of(identity) if corrected else None)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/projects/8/export?format=davis", 404),
        ("/projects/7/export", 400),
        ("/projects/7/export?format=vhs", 400),
        ("/projects/7/export?format=trajseg.tracks.formats.davis:Davis", 400),
        ("/projects/7/export?format=davis&pictures=yes", 400),
        ("/projects/x/export?format=davis", 404),
    ],
)
def test_bad_requests_are_answered_before_anything_is_sent(client: FlaskClient, address: str, status: int) -> None:
    answer = client.get(address)
    assert answer.status_code == status
    assert answer.json
    assert answer.json["error"]
    assert answer.json["remedy"]


@pytest.mark.usefixtures("project")
def test_other_sites_get_nothing(settings: Settings, store: Store, queue: JobQueue, client: FlaskClient) -> None:
    address = "/projects/7/export?format=davis"
    assert client.get(address, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    guarded = settings.model_copy(update={"basic_auth_user": "ada"})
    guarded = Settings.model_validate({**guarded.model_dump(), "basic_auth_password": "secret"})
    locked = create_app(compose(guarded, store, queue)).test_client()
    assert locked.get(address).status_code == 401
    assert locked.get(address, auth=("ada", "secret")).status_code == 200


@pytest.mark.usefixtures("project")
def test_the_jobs_page_offers_the_export_of_the_chosen_project(client: FlaskClient, project: int) -> None:
    page = client.get(f"/page/jobs?project={project}").text
    assert 'action="/projects/7/export"' in page
    assert "mevis</option>" in page
    assert "/export" not in client.get("/page/jobs").text


@pytest.mark.slow
def test_memory_does_not_grow_with_the_project(store: Store, project: int) -> None:
    def peak(tasks: range) -> int:
        for task in tasks:
            put(store, project, task, large)
        sizes = 0
        tracemalloc.start()
        for piece in zipped(ProjectExport(store, project), load_format("youtube-vis"), pictures=False):
            sizes += len(piece)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    random = np.random.default_rng(0)
    masks = [random.random((120, 160)) > 0.5 for _ in range(10)]
    noise = MaskTrack.from_masks("t1", masks, range(10), [0.5] * 10)
    large = Result("clip.mp4", 1.0, 160, 120, 10, "noise", "", "tiny", [noise])
    few, many = peak(range(10, 14)), peak(range(14, 30))
    assert many < 1.5 * few, (few, many)
