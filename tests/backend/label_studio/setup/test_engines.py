"""`trajseg doctor` reports whether each engine can run here, and the next step."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.label_studio.setup import engines
from backend.label_studio.setup.doctor import marks_model
from backend.label_studio.setup.engines import engine_check
from backend.settings import Settings
from trajseg import machine
from trajseg.checkpoints.catalogue import ENGINES, EngineNeeds
from trajseg.engines.registry import engine_factory

VARIABLES = ("DETECTOR", "TRACKER", "CHOOSER", "ADDRESS", "CHECKPOINT")


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without weights, tokens or settings, on which every engine of the catalogue is registered."""
    for name in VARIABLES:
        monkeypatch.delenv(f"TRAJSEG_GROUNDED_{name}", raising=False)
    for name in ("HF_TOKEN", "TRAJSEG_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(engines, "engine_factory", lambda name: object)
    monkeypatch.setattr(engines, "location", lambda weights: None)
    monkeypatch.setattr(engines, "memory_gb", lambda: (80.0, "the GPU"))


def use_folders(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for name in VARIABLES[:3]:
        monkeypatch.setenv(f"TRAJSEG_GROUNDED_{name}", str(folder))


def test_what_is_to_be_fetched_is_named_with_its_size() -> None:
    check = engine_check(ENGINES["grounded"])
    assert check.state == "warn"
    assert "llmdet-base, sam2.1-large, qwen3-vl-4b (about 10.7 GB)" in check.words
    assert check.remedy == "trajseg weights get grounded"


def test_a_gated_engine_says_what_to_ask_for_and_which_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    check = engine_check(ENGINES["sam3"])
    assert "owner of facebook/sam3 must grant access" in check.words
    assert "HF_TOKEN" in check.remedy
    assert "grounded, which needs no permission" in check.remedy
    monkeypatch.setenv("HF_TOKEN", "x")
    assert engine_check(ENGINES["sam3"]).remedy == "trajseg weights get sam3"


def test_without_a_model_set_serve_says_what_works_on_real_video(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert engines.proposal(model_is_set=True) == []
    said = "\n".join(engines.proposal(model_is_set=False))
    assert "TRAJSEG_MODEL=grounded trajseg serve" in said
    assert "trajseg weights get grounded" in said
    assert "qwen3-vl-4b (8.9 GB, Apache-2.0)" in said
    use_folders(monkeypatch, tmp_path)
    assert len(engines.proposal(model_is_set=False)) == 1
    monkeypatch.setattr(engines, "memory_gb", lambda: (24.0, "this machine"))
    said = "\n".join(engines.proposal(model_is_set=False))
    assert "trajseg-tiny knows rendered shapes only" in said
    assert "weights get" not in said, "no download is proposed to a machine without a GPU"
    assert engines.proposal(model_is_set=True) == []


def test_a_gpu_is_known_by_its_own_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 8000\necho 24000\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    memory_gb, where = machine.memory_gb()
    assert memory_gb == pytest.approx(24000 * 2**20 / 1e9)
    assert where == "the GPU"
    assert machine.memory_gb("cuda:0")[0] == pytest.approx(8000 * 2**20 / 1e9)
    assert machine.memory_gb("cpu")[1] == "this machine"
    tool.unlink()
    assert machine.memory_gb()[1] == "this machine"


def test_local_folders_need_nothing_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_folders(monkeypatch, tmp_path)
    check = engine_check(ENGINES["grounded"])
    assert (check.state, check.remedy) == ("ok", "")


def test_too_little_memory_disk_or_network_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRAJSEG_OFFLINE", "1")
    assert "offline mode is on" in engine_check(ENGINES["grounded"]).words
    monkeypatch.delenv("TRAJSEG_OFFLINE")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10**9})())
    assert "1.0 GB are free" in engine_check(ENGINES["grounded"]).words
    # Weights that would not fit are not worth a download.
    monkeypatch.setattr(engines, "memory_gb", lambda: (8.0, "the GPU"))
    for here in (None, tmp_path):
        monkeypatch.setattr(engines, "location", lambda weights, here=here: here)
        check = engine_check(ENGINES["grounded"])
        assert "needs about 15 GB, the GPU has 8 GB" in check.words
        assert "TRAJSEG_GROUNDED_CHOOSER=none" in check.remedy


def test_a_wrong_folder_is_named_instead_of_a_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engines, "engine_factory", engine_factory)
    monkeypatch.setenv("TRAJSEG_GROUNDED_DETECTOR", "/no/such/folder")
    check = engine_check(ENGINES["grounded"])
    assert (check.state, check.words) == (
        "warn",
        "TRAJSEG_GROUNDED_DETECTOR: there is no file or folder /no/such/folder.",
    )
    monkeypatch.setenv("TRAJSEG_GROUNDED_CHECKPOINT", str(tmp_path))
    check = engine_check(ENGINES["grounded"])
    assert f"{tmp_path} has neither grounded.json nor the folders" in check.words


def test_missing_packages_and_engines_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = EngineNeeds(name="x", parts=(), packages=("no_such_package",), understands="")
    assert "no_such_package" in engine_check(needs).words
    monkeypatch.setattr(engines, "engine_factory", lambda name: None)
    assert "is not part of this version" in engine_check(needs).words


def test_a_missing_marks_model_is_named(tmp_path: Path) -> None:
    check = marks_model(Settings(marks_model=str(tmp_path)))
    assert check.state == "fail"
    assert "lacks encoder.onnx, sam.onnx" in check.words
    assert marks_model(Settings(marks_model="")).state == "ok"
