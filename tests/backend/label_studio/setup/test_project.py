"""`trajseg project`: creates a working project, or fails without leaving anything behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from click.testing import Result as Ran
from flask import Flask

from backend.label_studio.client import LabelStudioClient
from backend.label_studio.setup.commands import project
from backend.label_studio.setup.project import wanted
from backend.settings import Settings
from backend.store import Store
from label_config import parse
from tests.backend.label_studio.conftest import FakeLabelStudio
from tests.tiny_clip import TinyClip
from trajseg.errors import InputError, InstructionError, LabelStudioError, VideoError
from trajseg.video import open_clip

Run = Callable[..., Ran]


@pytest.fixture
def run(settings: Settings, studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", settings.label_studio_api_key.get_secret_value())

    def run(*arguments: object) -> Ran:
        return CliRunner().invoke(project, [str(one) for one in arguments])

    return run


@pytest.fixture
def serving(app: Flask) -> Iterator[str]:
    """The real backend on a free port; its address."""
    import threading

    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()


def test_a_project_of_masks_with_a_task_for_each_video_and_instruction(
    run: Run, studio: FakeLabelStudio, serving: str, tiny_clip: TinyClip
) -> None:
    done = run(
        "create", "--title", "Squares", "--config", "mask", "-i", "the red one", "-i", "the blue one",
        "--backend-url", serving, tiny_clip.path,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (made,) = studio.projects.values()
    assert made["show_collab_predictions"] is True
    assert f"{studio.url}/projects/{made['id']}/data" in done.output
    config = parse(made["label_config"])
    assert config.view == "mask"
    (backend,) = studio.backends.values()
    assert (backend["url"], backend["is_interactive"], backend["auth_method"]) == (serving, True, "NONE")
    tasks = list(studio.tasks.values())
    assert [task["data"]["instruction"] for task in tasks] == ["the red one", "the blue one"]
    assert len({task["data"]["video"] for task in tasks}) == 1
    data = tasks[0]["data"]
    assert data["fps"] == pytest.approx(12.0)
    assert data["frame_index"] == list(range(12))
    assert len(data["frames"]) == 12
    assert all(address.startswith("/data/upload/") for address in data["frames"])


def uploaded(studio: FakeLabelStudio, address: str) -> bytes:
    """Label Studio's file at an address in task data."""
    (body,) = [data for file, data in studio.uploads.values() if address == f"/data/{file}"]
    return body


def test_the_first_pictures_are_the_frames_that_they_say(
    run: Run, studio: FakeLabelStudio, client: LabelStudioClient, tiny_clip: TinyClip, tmp_path: Path
) -> None:
    import numpy as np
    from PIL import Image

    run("create", "--title", "Squares", "-i", "red", "--no-backend", tiny_clip.path)
    data = next(iter(studio.tasks.values()))["data"]
    (tmp_path / "5.jpg").write_bytes(uploaded(studio, data["frames"][5]))
    picture = np.asarray(Image.open(tmp_path / "5.jpg")).astype(int)
    assert picture.shape == (64, 96, 3)
    red = picture[..., 0] - picture[..., 1:].max(axis=2) > 100
    assert (red & tiny_clip.red[5]).sum() / (red | tiny_clip.red[5]).sum() > 0.8


@pytest.mark.parametrize("numbers", [True, False])
def test_the_first_pictures_say_which_frame_they_are_as_key_frames_do(
    numbers: bool, run: Run, studio: FakeLabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np
    from PIL import Image

    from trajseg.video import write_video

    monkeypatch.setenv("TRAJSEG_KEY_FRAME_NUMBERS", str(numbers))
    grey = np.full((240, 320, 3), 120, np.uint8)
    video = write_video(tmp_path / "grey.mp4", [grey, grey], 10)
    done = run("create", "--title", "Grey", "-i", "red", "--no-backend", video)
    assert done.exit_code == 0, done.output
    frames = next(iter(studio.tasks.values()))["data"]["frames"]
    pictures = []
    for address in frames:
        (tmp_path / "one.jpg").write_bytes(uploaded(studio, address))
        pictures.append(np.asarray(Image.open(tmp_path / "one.jpg")).astype(int))
    corners = [np.abs(picture - 120)[-16:, :50].mean() > 20 for picture in pictures]
    assert corners == [numbers, numbers]
    assert (np.abs(pictures[0] - pictures[1])[-16:, :50].max() > 40) == numbers, "1 and 2 look different"


def test_a_project_of_boxes_needs_no_pictures(run: Run, studio: FakeLabelStudio, tiny_clip: TinyClip) -> None:
    done = run("create", "--title", "Boxes", "--config", "box", "-i", "red", "--no-backend", tiny_clip.path)
    assert done.exit_code == 0, done.output
    assert set(next(iter(studio.tasks.values()))["data"]) == {"video", "instruction", "fps"}
    assert studio.backends == {}


def test_a_video_that_browsers_cannot_play_goes_up_as_a_copy_frame_by_frame(
    run: Run, studio: FakeLabelStudio, client: LabelStudioClient, clips: Path, tmp_path: Path
) -> None:
    source = clips / "broken_frame_count.avi"
    done = run("create", "--title", "Copy", "-i", "the pointer", "--no-backend", source)
    assert done.exit_code == 0, done.output
    assert "uploading a copy" in done.output
    assert "the header claims 444 frames, 68 can be decoded" in done.output
    data = next(iter(studio.tasks.values()))["data"]
    assert data["video"].endswith(".mp4")
    (tmp_path / "copy.mp4").write_bytes(uploaded(studio, data["video"]))
    copy = open_clip(tmp_path / "copy.mp4")
    assert copy.browser_playable
    assert len(copy) == len(open_clip(source)) == 68


def test_basic_authentication_goes_with_the_connection(
    run: Run, studio: FakeLabelStudio, serving: str, tiny_clip: TinyClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAJSEG_BASIC_AUTH_USER", "u")
    monkeypatch.setenv("TRAJSEG_BASIC_AUTH_PASSWORD", "p")
    monkeypatch.setenv("TRAJSEG_WEBHOOK_SECRET", "open sesame")
    done = run("create", "--title", "Auth", "-i", "red", "--backend-url", serving, tiny_clip.path)
    assert done.exit_code == 0, done.output
    (backend,) = studio.backends.values()
    assert (backend["auth_method"], backend["basic_auth_user"], backend["basic_auth_pass"]) == (
        "BASIC_AUTH",
        "u",
        "p",
    )
    # Label Studio does not send the Basic-auth header with its webhooks.
    (webhook,) = studio.webhooks.values()
    assert webhook["headers"] == {"Authorization": "Basic dTpw", "X-Trajseg-Secret": "open sesame"}


def test_the_most_doubtful_task_comes_first(
    run: Run, studio: FakeLabelStudio, serving: str, tiny_clip: TinyClip
) -> None:
    """With uncertainty sampling, which uses the backend's title, and in a tab of the Data Manager."""
    run("create", "--title", "Doubt", "-i", "red", "--backend-url", serving, tiny_clip.path)
    (project,) = studio.projects.values()
    assert project["sampling"] == "Uncertainty sampling"
    (backend,) = studio.backends.values()
    assert backend["title"] == "trajseg-tiny"
    first, second = (view["data"] for view in studio.views.values())
    assert (first["title"], second["title"]) == ("Default", "Most doubtful first")
    assert second["ordering"] == ["-tasks:data.trajseg_doubt"]
    assert second["columnsDisplayType"] == {"tasks:data.trajseg_doubt": "Number"}
    assert {"tasks:data.frames", "tasks:data.frame_index"} <= set(first["hiddenColumns"]["explore"])


def test_a_backend_that_is_not_there_leaves_no_project_behind(
    run: Run, studio: FakeLabelStudio, tiny_clip: TinyClip
) -> None:
    done = run("create", "--title", "None", "-i", "red", "--backend-url", "http://127.0.0.1:9", tiny_clip.path)
    assert isinstance(done.exception, LabelStudioError)
    assert "trajseg serve" in done.exception.remedy
    assert studio.projects == {}


@pytest.mark.parametrize("setting", ["block_local_ip", "ssrf_protection"])
def test_either_guard_against_private_addresses_is_reported_with_both_settings(
    run: Run, studio: FakeLabelStudio, serving: str, tiny_clip: TinyClip, setting: str
) -> None:
    setattr(studio, setting, True)
    done = run("create", "--title", "Guarded", "-i", "red", "--backend-url", serving, tiny_clip.path)
    assert isinstance(done.exception, LabelStudioError)
    assert "ML_BLOCK_LOCAL_IP=false" in done.exception.remedy
    assert "SSRF_PROTECTION_ENABLED=false" in done.exception.remedy
    assert studio.projects == {}


def test_a_bad_video_is_reported_before_anything_is_made(
    run: Run, studio: FakeLabelStudio, tmp_path: Path, tiny_clip: TinyClip
) -> None:
    (tmp_path / "no.mp4").write_bytes(b"no video")
    for bad in (tmp_path / "no.mp4", tmp_path / "missing.mp4"):
        done = run("create", "--title", "Bad", "-i", "red", "--no-backend", tiny_clip.path, bad)
        assert isinstance(done.exception, VideoError)
    assert studio.requests == []


def test_a_dead_link_is_reported_and_leaves_no_project_behind(run: Run, studio: FakeLabelStudio) -> None:
    link = f"{studio.url}/data/upload/9/gone.mp4"
    done = run("create", "--title", "Link", "-i", "red", "--no-backend", link)
    assert isinstance(done.exception, VideoError)
    assert link in done.exception.message
    assert studio.projects == {}


def test_a_link_stays_a_link_and_a_bucket_is_left_to_label_studio(
    run: Run, studio: FakeLabelStudio, tiny_clip: TinyClip
) -> None:
    import threading
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tiny_clip.path.parent)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    link = f"http://localhost:{server.server_port}/{tiny_clip.path.name}"
    done = run("create", "--title", "Links", "-i", "red", "--no-backend", link, "s3://bucket/clip.mp4")
    server.shutdown()
    assert done.exit_code == 0, done.output
    assert "TRAJSEG_MEDIA_HOSTS=localhost" in done.output
    first, second = (task["data"] for task in studio.tasks.values())
    assert (first["video"], first["fps"]) == (link, pytest.approx(12.0))
    assert second == {"video": "s3://bucket/clip.mp4", "instruction": "red"}


def test_tasks_are_read_from_lines(run: Run, studio: FakeLabelStudio, tiny_clip: TinyClip, tmp_path: Path) -> None:
    lines = [{"video": tiny_clip.path.name, "instruction": text} for text in ("red", "blue", "red")]
    file = tiny_clip.path.parent / "tasks.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    done = run("create", "--title", "Lines", "--no-backend", "--tasks", file)
    assert done.exit_code == 0, done.output
    assert [task["data"]["instruction"] for task in studio.tasks.values()] == ["red", "blue"]


def test_tasks_are_added_to_a_project_that_is_there(run: Run, studio: FakeLabelStudio, tiny_clip: TinyClip) -> None:
    number = studio.add_project("box")
    done = run("add", number, "-i", "red", tiny_clip.path)
    assert done.exit_code == 0, done.output
    assert [task["project"] for task in studio.tasks.values()] == [number]


@pytest.mark.parametrize("line", ["{", "[]", '{"video": "a.mp4"}', '{"video": 1, "instruction": "x"}', "3"])
def test_an_invalid_task_line_is_reported_with_its_number(tmp_path: Path, line: str) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text(f'{{"video": "a.mp4", "instruction": "x"}}\n{line}\n')
    with pytest.raises(InputError, match="Line 2"):
        wanted([], [], file)


def test_videos_without_instruction_and_nothing_at_all_are_refused() -> None:
    with pytest.raises(InputError):
        wanted(["a.mp4"], [])
    with pytest.raises(InputError):
        wanted([], ["red"])
    with pytest.raises(InstructionError):
        wanted(["a.mp4"], ["x" * 10_000])
    assert Path("a.mp4").name == wanted(["a.mp4"], [" red "])[0].video


@pytest.mark.parametrize(
    "name",
    [
        *("cam1-2024:30.mp4", "a:b:c.mp4", "x" * 245 + ".mp4", "字" * 83 + ".mp4", "a b#c?d%20.mp4"),
        *("\udcff\udcfe.mp4", "a\nb.mp4", 'a"b\\c.mp4', ".mp4", "CLIP.MP4", "a\u202eb.mp4", "http:clip.mp4", "clip"),
    ],
)
@pytest.mark.parametrize("view", ["mask", "box"])
def test_a_file_may_have_any_name(
    run: Run, studio: FakeLabelStudio, tiny_clip: TinyClip, tmp_path: Path, name: str, view: str
) -> None:
    (tmp_path / name).write_bytes(tiny_clip.path.read_bytes())
    done = run("create", "--title", "Names", "--config", view, "-i", "red", "--no-backend", tmp_path / name)
    assert done.exit_code == 0, done.output
    (task,) = studio.tasks.values()
    assert task["data"]["video"].startswith("/data/upload/")


@pytest.mark.parametrize("name", ["x" * 245 + ".avi", "字" * 83 + ".avi"])
def test_so_may_one_that_is_copied(run: Run, studio: FakeLabelStudio, clips: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((clips / "broken_frame_count.avi").read_bytes())
    done = run("create", "--title", "Names", "--config", "box", "-i", "red", "--no-backend", tmp_path / name)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("name", ["nosuch:30.mp4", "/data/clips/nosuch.mp4", "file:///nosuch.mp4", "x" * 300])
def test_a_missing_file_is_no_address(run: Run, studio: FakeLabelStudio, name: str) -> None:
    done = run("create", "--title", "Names", "-i", "red", "--no-backend", name)
    assert isinstance(done.exception, VideoError)
    assert studio.projects == {}


def test_tasks_with_a_byte_order_mark_and_odd_separators(tmp_path: Path) -> None:
    texts = ["the red\u2028one", "the blue\u0085one", "a\u2029b"]
    lines = [json.dumps({"video": "https://h/v.mp4", "instruction": text}, ensure_ascii=False) for text in texts]
    (tmp_path / "t.jsonl").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8", newline="")
    assert [task.instruction for task in wanted((), (), tmp_path / "t.jsonl")] == texts


def test_a_projects_engine_is_shown_in_the_connection_and_can_be_changed(
    run: Run, studio: FakeLabelStudio, serving: str, store: Store, tiny_clip: TinyClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAJSEG_ENGINES", "grounded")
    monkeypatch.setenv("TRAJSEG_GROUNDED_CHOOSER", "none")
    version = "grounded/llmdet_base+sam2.1-hiera-large+none"
    made = run(
        "create", "--title", "Squares", "-i", "red", "--backend-url", serving, "--engine", "grounded", tiny_clip.path
    )
    assert made.exit_code == 0, made.output
    (backend,) = studio.backends.values()
    assert (backend["title"], backend["extra_params"]) == (version, {"engine": "grounded"})
    changed = run("change", backend["project"], "--backend-url", serving)
    assert changed.exit_code == 0, changed.output
    assert "trajseg-tiny" in changed.output
    assert (backend["title"], backend["extra_params"]) == ("trajseg-tiny", {})
    assert store.projects.of_label_studio(backend["project"]).engine == ""
    # The serving backend was started without TRAJSEG_ENGINES.
    refused = run("change", backend["project"], "--engine", "grounded", "--backend-url", serving)
    assert isinstance(refused.exception, LabelStudioError)
    assert backend["extra_params"] == {}
    unknown = run("change", backend["project"], "--engine", "sam9", "--backend-url", serving)
    assert isinstance(unknown.exception, InputError)
    assert "TRAJSEG_ENGINES" in unknown.exception.remedy
