"""`trajseg doctor` reports each fault with its remedy, and reports no fault where there is none."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from flask import Flask
from pydantic import SecretStr
from werkzeug.serving import make_server

from backend.label_studio.client import LabelStudioClient
from backend.label_studio.setup import doctor as checks
from backend.label_studio.setup.check import Check
from backend.label_studio.setup.commands import doctor
from backend.settings import Settings
from tests.backend.label_studio.conftest import FakeLabelStudio
from tests.tiny_clip import TinyClip
from trajseg.engines import parts


@pytest.fixture
def served(settings: Settings, app: Flask) -> Iterator[Settings]:
    """Settings whose public address is a real backend."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield settings.model_copy(update={"public_url": f"http://127.0.0.1:{server.port}"})
    server.shutdown()


def found(settings: Settings, name: str, **options: object) -> list[Check]:
    return [check for check in checks.checks(settings, **options) if check.name == name]  # type: ignore[arg-type]


def test_a_set_up_that_works_is_well(served: Settings, studio: FakeLabelStudio) -> None:
    told = {check.name: check for check in checks.checks(served)}
    well = ("Packages", "Queue", "Store", "Backend", "Public URL", "Label Studio", "Token", "Connection")
    assert {name: told[name].state for name in well} == dict.fromkeys(well, "ok")
    assert "legacy token of admin@example.com" in told["Token"].words
    assert studio.projects == {}


@pytest.mark.parametrize(
    ("setting", "named"),
    [("block_local_ip", "ML_BLOCK_LOCAL_IP is on"), ("ssrf_protection", "SSRF_PROTECTION_ENABLED is on")],
)
def test_each_of_the_two_guards_is_reported_by_name(
    served: Settings, studio: FakeLabelStudio, setting: str, named: str
) -> None:
    setattr(studio, setting, True)
    (connection,) = found(served, "Connection")
    assert connection.state == "fail"
    assert named in connection.words
    assert "ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false" in connection.remedy
    assert studio.projects == {}


def test_read_only_makes_nothing_in_label_studio(served: Settings, studio: FakeLabelStudio) -> None:
    assert found(served, "Connection", read_only=True) == []
    assert {method for method, _ in studio.requests} == {"GET"}


def test_a_disabled_legacy_token_is_reported(served: Settings, studio: FakeLabelStudio) -> None:
    studio.legacy_tokens = False
    (token,) = found(served, "Token")
    assert token.state == "fail"
    assert "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN" in token.remedy


def test_a_backend_that_does_not_answer_is_reported(settings: Settings) -> None:
    (backend,) = found(settings.model_copy(update={"public_url": "http://127.0.0.1:9"}), "Backend")
    assert backend.state == "fail"
    assert "trajseg serve" in backend.remedy


def test_a_server_that_is_not_a_backend_is_reported(settings: Settings, studio: FakeLabelStudio) -> None:
    (backend,) = found(settings.model_copy(update={"public_url": studio.url}), "Backend")
    assert backend.state == "fail"
    assert "not trajseg" in backend.words


@pytest.mark.parametrize(
    ("public", "studio_url", "state"),
    [
        ("http://127.0.0.1:9090", "http://127.0.0.1:8080", "ok"),
        ("", "http://192.0.2.7:8080", "warn"),
        ("http://localhost:9090", "http://192.0.2.7:8080", "fail"),
        ("http://192.0.2.8:9090", "https://192.0.2.7", "fail"),
        ("https://192.0.2.8", "https://192.0.2.7", "ok"),
    ],
)
def test_an_address_that_browsers_cannot_use_is_reported(
    settings: Settings, public: str, studio_url: str, state: str
) -> None:
    told = settings.model_copy(update={"public_url": public, "label_studio_url": studio_url})
    assert checks.public_url(told).state == state


def test_a_queue_that_does_not_answer_is_reported(valkey_url: str) -> None:
    assert checks.redis(Settings(redis_url=valkey_url)).state == "ok"
    assert checks.redis(Settings(redis_url="redis://127.0.0.1:9/0")).state == "fail"
    assert "trajseg serve" in checks.redis(Settings()).words


def test_a_database_that_does_not_answer_is_reported(tmp_path: Path) -> None:
    assert "will be created" in checks.database(Settings(data_dir=tmp_path / "new" / "data")).words
    assert not (tmp_path / "new").exists()
    assert checks.database(Settings(database_url="postgresql://u:secret@127.0.0.1:9/x")).state == "fail"
    assert "secret" not in checks.database(Settings(database_url="postgresql://u:secret@127.0.0.1:9/x")).words
    assert checks.database(Settings(database_url="nonsense")).state == "fail"


def test_a_missing_checkpoint_is_reported(tmp_path: Path) -> None:
    assert checks.model(Settings(model=str(tmp_path))).state == "fail"
    (tmp_path / "config.json").write_text("{}")
    assert "weights" in checks.model(Settings(model=str(tmp_path))).words
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert checks.model(Settings(model=str(tmp_path))).state == "ok"


def test_a_checkpoint_with_untrained_parts_or_without_data_to_train_on_is_reported(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_name": "ours"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "assembled.json").write_text('{"never_trained": ["spi_module"]}')
    check = checks.model(Settings(model=str(tmp_path)))
    assert check.state == "warn"
    assert "spi_module" in check.words
    (tmp_path / "assembled.json").write_text('{"never_trained": []}')
    assert checks.model(Settings(model=str(tmp_path))).state == "ok"
    ours = Settings(model=str(tmp_path))
    [check] = checks.training(ours, ours.model)
    assert (check.name, check.state) == ("Training", "warn")
    assert "TRAJSEG_REPLAY_DATA=" in check.remedy
    assert "TRAJSEG_BASE_DATA=" in check.remedy
    named = ours.model_copy(update={"replay_data": "shapes:turned", "base_data": "shapes:val"})
    assert not list(checks.training(named, ours.model))
    assert not list(checks.training(ours, "trajseg-tiny"))
    assert not list(checks.training(ours, "grounded"))
    assert not list(checks.training(ours, str(tmp_path / "missing")))


def test_an_engine_of_someone_else_is_read_and_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_engine.py").write_text(
        "from trajseg.engines.base import EngineSpec\n"
        "class Found:\n"
        "    spec = EngineSpec(name='mine', model_version='mine-2')\n"
        "    def __init__(self, device): raise RuntimeError('loaded')\n"
        "class Lacking(Found):\n"
        "    spec = EngineSpec(name='mine', model_version='mine-2', needs=('no-such-package',))\n"
        "def without(device): return Found(device)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    check = checks.model(Settings(model="my_engine:Found"))
    assert (check.state, check.words) == ("ok", "mine-2, the engine my_engine:Found")
    assert Settings(model="my_engine:Found").model_version() == "mine-2"
    lacking = checks.model(Settings(model="my_engine:Lacking"))
    assert (lacking.state, lacking.remedy) == ("warn", "pip install no-such-package")
    for name, words in (("my_engine:without", "has no spec"), ("my_engine:nothing", "cannot be loaded")):
        check = checks.model(Settings(model=name))
        assert check.state == "fail"
        assert words in check.words


def test_an_engine_without_its_weights_and_further_engines_are_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Settings
) -> None:
    monkeypatch.setattr(parts, "location", lambda part: None)
    check = checks.model(Settings(model="grounded"))
    assert (check.state, "Qwen/Qwen3-VL-4B-Instruct (about 10.7 GB) are not" in check.words) == ("warn", True)
    monkeypatch.setattr(parts, "location", lambda part: tmp_path)
    assert checks.model(Settings(model="grounded")).state == "ok"
    [unknown] = found(settings.model_copy(update={"engines": ("groundet",)}), "Model groundet")
    assert unknown.state == "fail"
    assert "TRAJSEG_ENGINES" in unknown.remedy


def test_a_video_that_browsers_cannot_play_is_reported(settings: Settings, clips: Path) -> None:
    (video,) = found(settings, "Video", video=str(clips / "broken_frame_count.avi"))
    assert video.state == "fail"
    assert "H.264" in video.remedy
    (video,) = found(settings, "Video", video=str(clips / "variable_frame_rate.mp4"))
    assert video.state == "warn"
    assert "variable frame rate" in video.words
    (video,) = found(settings, "Video", video="/nowhere.mp4")
    assert video.state == "fail"


def test_a_project_is_looked_at_with_its_tasks(
    served: Settings, studio: FakeLabelStudio, client: LabelStudioClient, tiny_clip: TinyClip
) -> None:
    project = studio.add_project("mask")
    address = client.upload(project, tiny_clip.path)
    good = studio.add_task(project, video=address, instruction="red", fps=12.0)
    wrong = studio.add_task(project, video=address, instruction="", fps=24.0, frames=[])
    told = list(checks.checks(served, project_id=project))
    words = {check.words: check.state for check in told if check.name.startswith("Project")}
    assert any("is not connected" in text and state == "fail" for text, state in words.items())
    assert f"tasks {wrong} have no `instruction`" in words
    assert any("pages do not open" in text for text in words)
    (rate,) = [check for check in told if check.name == "Frame rate"]
    assert rate.state == "fail"
    assert f"task {wrong}" in rate.words
    assert good in studio.tasks


@pytest.mark.parametrize("attribute", ['framerate="25.0"', "", 'frameRate="0.05"'])
def test_a_fixed_rate_is_reported_with_the_line_that_frees_it(
    served: Settings, studio: FakeLabelStudio, client: LabelStudioClient, tiny_clip: TinyClip, attribute: str
) -> None:
    project = studio.add_project("box")
    xml = studio.projects[project]["label_config"]
    assert 'frameRate="$fps"' in xml
    studio.projects[project]["label_config"] = xml.replace('frameRate="$fps"', attribute)
    studio.add_task(project, video=client.upload(project, tiny_clip.path), instruction="red")
    (rate,) = found(served, "Frame rate", project_id=project)
    assert rate.state == "warn"
    assert '<Video name="video" value="$video" height="480" frameRate="$fps"/>' in rate.remedy
    assert "fps=12" in rate.remedy


def test_an_older_configuration_is_reported_with_the_lines_that_it_lacks(
    served: Settings, studio: FakeLabelStudio
) -> None:
    project = studio.add_project("mask")
    assert not [check for check in found(served, f"Project {project}", project_id=project) if "`answer`" in check.words]
    xml = studio.projects[project]["label_config"]
    older = re.sub(r'<View className="trajseg-answer">.*?</View>', "", xml, flags=re.DOTALL)
    studio.projects[project]["label_config"] = older.replace('width="calc(100% - 44px)" ', "")
    told = {check.words: check for check in found(served, f"Project {project}", project_id=project)}
    [answer] = [check for words, check in told.items() if "`answer`" in words]
    [picture] = [check for words, check in told.items() if "crops pictures" in words]
    assert (answer.state, picture.state) == ("warn", "warn")
    assert '<TextArea name="answer" toName="image"' in answer.remedy
    assert 'width="calc(100% - 44px)"' in picture.remedy
    assert "Labeling Interface" in picture.remedy


def test_a_connected_backend_that_is_not_interactive_is_reported(
    served: Settings, studio: FakeLabelStudio, client: LabelStudioClient
) -> None:
    project = studio.add_project("mask")
    client.connect_backend(project, served.external_url, title="t")
    assert any("connected and interactive" in c.words for c in found(served, f"Project {project}", project_id=project))
    next(iter(studio.backends.values()))["is_interactive"] = False
    told = found(served, f"Project {project}", project_id=project)
    assert any(check.state == "warn" and "typed in the page does nothing" in check.words for check in told)


def test_a_webhook_that_does_not_announce_is_reported(
    served: Settings, studio: FakeLabelStudio, client: LabelStudioClient
) -> None:
    project = studio.add_project("mask")
    client.connect_backend(project, served.external_url, title="t")
    (webhook,) = studio.webhooks.values()
    name = f"Project {project}"

    def words(settings: Settings = served) -> str:
        return "\n".join(check.words for check in found(settings, name, project_id=project))

    assert "announces annotations at once" in words()
    guarded = served.model_copy(update={"basic_auth_user": "u", "basic_auth_password": SecretStr("p")})
    assert "lacks the right header Authorization" in words(guarded)
    webhook["headers"] = {"Authorization": "Basic dTpw"}
    assert "announces annotations at once" in words(guarded)
    secretive = served.model_copy(update={"webhook_secret": SecretStr("open sesame")})
    assert "lacks the right header X-Trajseg-Secret" in words(secretive)
    webhook["headers"] |= {"X-Trajseg-Secret": "open sesame"}
    assert "announces annotations at once" in words(secretive)
    webhook["is_active"] = False
    assert "the webhook is switched off" in words()
    studio.webhooks.clear()
    assert "no webhook points to" in words()
    assert "still found within 60 s" in words()


def test_tasks_that_do_not_say_where_to_look_are_reported(
    served: Settings, studio: FakeLabelStudio, client: LabelStudioClient
) -> None:
    project = studio.add_project("mask")
    studio.add_task(project, video="/nowhere", instruction="x", trajseg_state="refined", trajseg_doubt=0.2)
    told = "\n".join(check.words for check in found(served, f"Project {project}", project_id=project))
    assert "1 task with a prediction, 1 of them refined" in told
    without = studio.add_task(project, video="/nowhere", instruction="x", trajseg_state="prelabelled")
    told = "\n".join(check.words for check in found(served, f"Project {project}", project_id=project))
    assert f"tasks {without} have a prediction but no `trajseg_doubt`" in told


def test_the_command_exits_with_1_when_something_fails(
    studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "f" * 40)
    monkeypatch.setenv("TRAJSEG_DATA_DIR", str(tmp_path))
    done = CliRunner().invoke(doctor, ["--read-only"])
    assert done.exit_code == 1
    assert "FAIL  Token: Label Studio refuses the token" in done.output
    assert "-> Make a personal access token" in done.output
