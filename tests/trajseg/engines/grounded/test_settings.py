"""Settings come from the defaults, a checkpoint, the environment and options, in this order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trajseg.engines.grounded import factory
from trajseg.engines.grounded.settings import GroundedSettings
from trajseg.errors import CheckpointError, InputError


def test_later_sources_override_earlier_ones(tmp_path: Path) -> None:
    for part in ("detector", "chooser/prompts"):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "grounded.json").write_text(json.dumps({"frames": 3, "portrait": 64, "threshold": 0.1}))
    environ = {"TRAJSEG_GROUNDED_PORTRAIT": "80", "TRAJSEG_GROUNDED_THRESHOLD": "0.2", "TRAJSEG_GROUNDED_ROUNDS": ""}
    read = GroundedSettings.read({"checkpoint": str(tmp_path), "threshold": 0.3}, environ)
    assert (read.frames, read.portrait, read.threshold, read.rounds) == (3, 80, 0.3, 1)
    assert read.detector == str(tmp_path / "detector")
    assert read.prompts == str(tmp_path / "chooser" / "prompts")
    assert read.tracker == GroundedSettings().tracker


def test_capabilities_depend_on_the_chooser() -> None:
    with_chooser, without = GroundedSettings().spec, GroundedSettings(chooser="none").spec
    assert (with_chooser.sentences, with_chooser.captions) == (True, True)
    assert (without.sentences, without.captions) == (False, False)
    assert with_chooser.marks
    assert without.propagates


@pytest.mark.parametrize(
    ("settings", "version"),
    [
        (GroundedSettings(), "grounded/llmdet_base+sam2.1-hiera-large+Qwen3-VL-4B-Instruct"),
        (GroundedSettings(chooser="none"), "grounded/llmdet_base+sam2.1-hiera-large+none"),
        (GroundedSettings(detector="a/b@0123abc", tracker="/data/sam 2/x.pt"), "grounded/b+x.pt+Qwen3-VL-4B-Instruct"),
        (GroundedSettings(checkpoint="/data/tiny/"), "grounded/tiny"),
        (GroundedSettings(checkpoint="/data/tiny", chooser="none"), "grounded/tiny+none"),
    ],
)
def test_the_model_version_names_the_parts(settings: GroundedSettings, version: str) -> None:
    assert settings.model_version == version


def test_the_factory_s_spec_is_read_without_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAJSEG_GROUNDED_CHOOSER", "none")
    assert factory.spec.model_version.endswith("+none")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"thresholt": 0.1}, "thresholt"),
        ({"threshold": 1.5}, "TRAJSEG_GROUNDED_THRESHOLD is 1.5"),
        ({"frames": "many"}, "TRAJSEG_GROUNDED_FRAMES is 'many'"),
    ],
)
def test_invalid_setting_is_named(options: dict[str, object], names: str) -> None:
    with pytest.raises(InputError, match=names):
        GroundedSettings.read(options, {})


def test_missing_or_damaged_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no folder"):
        GroundedSettings.read({"checkpoint": str(tmp_path / "none")}, {})
    with pytest.raises(CheckpointError, match=r"has neither grounded\.json nor the folders detector") as caught:
        GroundedSettings.read({"checkpoint": str(tmp_path)}, {})
    assert "TRAJSEG_GROUNDED_DETECTOR" in caught.value.remedy
    (tmp_path / "grounded.json").write_text('{"frames": 3, "unknown": 1}')
    with pytest.raises(CheckpointError, match=r"grounded\.json"):
        GroundedSettings.read({"checkpoint": str(tmp_path)}, {})
