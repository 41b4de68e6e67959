"""Settings: read from the environment, validated and documented; importing the service stays light."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from backend.settings import Settings, model_version_of

ROOT = Path(__file__).parent.parent.parent


def test_every_setting_says_what_it_means() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://studio:8080/")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0123abcd")
    monkeypatch.setenv("REDIS_URL", "redis://queue:6379/1")
    monkeypatch.setenv("DATABASE_URL", "postgresql://store/trajseg")
    monkeypatch.setenv("TRAJSEG_PORT", "9191")
    monkeypatch.setenv("TRAJSEG_MEDIA_HOSTS", "a.example, *.b.example,")
    monkeypatch.setenv("TRAJSEG_PUBLIC_URL", "")
    settings = Settings()
    assert settings.label_studio_url == "http://studio:8080"
    assert settings.label_studio_api_key.get_secret_value() == "0123abcd"
    assert settings.redis_url == "redis://queue:6379/1"
    assert settings.store_url == "postgresql://store/trajseg"
    assert settings.media_hosts == ("a.example", "*.b.example")
    assert settings.external_url == "http://127.0.0.1:9191"
    assert "0123abcd" not in repr(settings)


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70_000},
        {"label_studio_url": "studio:8080"},
        {"public_url": "ftp://x"},
        {"interactive_wait_seconds": 99},
        {"view": "polygon"},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)  # type: ignore[arg-type]


def test_the_store_is_a_file_in_the_data_folder_by_default(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert settings.store_url == f"sqlite:///{tmp_path.resolve()}/trajseg.db"


def test_the_model_version_is_known_without_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    assert model_version_of(str(folder)) == "mine"
    (folder / "config.json").write_text(json.dumps({"model_name": "trajseg-7b"}))
    assert model_version_of(str(folder)) == "trajseg-7b"
    (folder / "config.json").write_text("[]")
    assert model_version_of(str(folder)) == "mine"
    assert model_version_of("trajseg-tiny") == "trajseg-tiny"


def test_the_service_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, backend, backend.http.app, backend.server, backend.reconcile, backend.store, label_config;"
        "import trajseg.tracks, trajseg.video; backend.create_app;"
        "print(sorted({'torch', 'transformers', 'label_studio_ml'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert answer.stdout.strip() == "[]"
