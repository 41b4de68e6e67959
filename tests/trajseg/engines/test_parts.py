"""Weights of engines: missing ones are named together, before anything is loaded; nothing is downloaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from huggingface_hub import constants

from trajseg.cli import main
from trajseg.engines.parts import check_parts, weights_path
from trajseg.engines.registry import check_engine, load_engine
from trajseg.errors import CheckpointError, InputError

CLIP = Path(__file__).parents[2] / "clips" / "yellow_box.mp4"
COMMIT = "b" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no settings."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("TRAJSEG_OFFLINE", "HF_HUB_OFFLINE", "TRAJSEG_GROUNDED_CHOOSER", "TRAJSEG_GROUNDED_CHECKPOINT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


def snapshot(cache: Path, repository: str, *files: str) -> Path:
    """A repository in the hub's cache, as a download leaves it."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    for file in files:
        (folder / "snapshots" / COMMIT / file).write_text("{}")
    return folder / "snapshots" / COMMIT


def test_everything_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(CheckpointError) as caught:
        load_engine("grounded")
    assert caught.value.message == (
        "The weights iSEE-Laboratory/llmdet_base, facebook/sam2.1-hiera-large, Qwen/Qwen3-VL-4B-Instruct "
        "(about 10.7 GB) are not on this machine."
    )
    assert "Run `trajseg weights get grounded`: it shows the size and asks first" in caught.value.remedy
    for setting in ("DETECTOR", "TRACKER", "CHOOSER"):
        assert f"TRAJSEG_GROUNDED_{setting}" in caught.value.remedy


def test_only_what_is_missing_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot(cache, "facebook/sam2.1-hiera-large", "sam2.1_hiera_large.pt")
    monkeypatch.setenv("TRAJSEG_GROUNDED_CHOOSER", "none")
    with pytest.raises(CheckpointError) as caught:
        check_engine("grounded")
    assert caught.value.message == "The weights iSEE-Laboratory/llmdet_base (about 0.9 GB) are not on this machine."
    found = snapshot(cache, "iSEE-Laboratory/llmdet_base", "config.json", "model.safetensors")
    check_engine("grounded")
    assert weights_path("iSEE-Laboratory/llmdet_base", "detector") == found


def test_an_interrupted_download_counts_as_missing(cache: Path) -> None:
    snapshot(cache, "nobody/detector", "config.json")
    with pytest.raises(CheckpointError, match=r"The weights nobody/detector are not on this machine"):
        check_parts("grounded", "TRAJSEG_GROUNDED_", {"detector": "nobody/detector"})


def test_a_served_chooser_and_parts_given_as_options_need_nothing_here(cache: Path) -> None:
    options: dict[str, Any] = {
        "detector": "nobody/detector@main",
        "tracker": "trajseg-tiny",
        "address": "http://gpu/v1",
    }
    with pytest.raises(CheckpointError, match="The weights nobody/detector@main are not on this machine"):
        load_engine("grounded", "cpu", **options)


def test_gated_weights_need_permission_and_an_engine_without_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"The weights facebook/sam3 \(about 3.4 GB\) are not") as caught:
        check_engine("sam3")
    for words in (
        "https://huggingface.co/facebook/sam3",
        "HF_TOKEN",
        "trajseg weights get sam3",
        "TRAJSEG_SAM3_WEIGHTS",
    ):
        assert words in caught.value.remedy
    assert "The engine grounded needs no permission" in caught.value.remedy


def test_offline_mode_says_what_to_copy_and_not_to_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAJSEG_OFFLINE", "1")
    with pytest.raises(CheckpointError, match=r"allenai/Molmo2-4B, facebook/sam2") as caught:
        check_engine("molmo2")
    assert caught.value.remedy == (
        "Offline mode is on: copy them here and name their folders in TRAJSEG_MOLMO2_WEIGHTS, TRAJSEG_MOLMO2_TRACKER."
    )


@pytest.mark.parametrize("name", ["/no/such/folder", "../weights/detector", "detector", "~/no-such-folder", "a/b/c"])
def test_a_folder_that_is_not_there_is_not_taken_for_a_repository(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"TRAJSEG_SAM3_WEIGHTS: there is no file or folder {name}") as caught:
        check_parts("sam3", "TRAJSEG_SAM3_", {"weights": name})
    assert "owner/name" in caught.value.remedy


def test_a_folder_in_the_home_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "detector").mkdir()
    check_parts("grounded", "TRAJSEG_GROUNDED_", {"detector": "~/detector"})
    assert weights_path("~/detector", "detector") == tmp_path / "detector"


def test_an_unknown_checkpoint_is_named() -> None:
    with pytest.raises((CheckpointError, InputError), match="nonsense"):
        check_engine("nonsense")


def test_a_comparison_checks_both_engines_before_it_runs_one(tmp_path: Path) -> None:
    words = ["compare", str(CLIP), "a box", "--engines", "trajseg-tiny,sam3", "--out", str(tmp_path / "out")]
    outcome = CliRunner().invoke(main, words)
    assert outcome.exit_code == 1
    assert "facebook/sam3" in outcome.stderr
    assert not (tmp_path / "out").exists()


def test_missing_weights_are_found_without_torch() -> None:
    code = (
        "import sys\nfrom trajseg.engines.registry import check_engine\ntry: check_engine('molmo2')\n"
        "except Exception as error: assert 'not on this machine' in str(error)\n"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
