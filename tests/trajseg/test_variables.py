"""A mistyped environment variable is reported with a suggestion; valid ones are not reported."""

from __future__ import annotations

import logging
import re
from dataclasses import fields
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest
from click.testing import CliRunner

import trajseg.variables
from backend.label_studio.setup.doctor import variables
from backend.settings import Settings
from trajseg.cli import main
from trajseg.engines.grounded import GroundedSettings
from trajseg.variables import log_unknown_variables, unknown_variables


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TRAJSEG_ENGNE", "TRAJSEG_MODEL"),
        ("TRAJSEG_ENGINE", "TRAJSEG_MODEL"),
        ("TRAJSEG_MODLE", "TRAJSEG_MODEL"),
        ("TRAJSEG_GROUNDED_CHOSER", "TRAJSEG_GROUNDED_CHOOSER"),
        ("TRAJSEG_WEIGHT_DIR", "TRAJSEG_WEIGHTS_DIR"),
        ("TRAJSEG_LABEL_STUDIO_URL", "LABEL_STUDIO_URL"),
        ("trajseg_prot", "TRAJSEG_PORT"),
    ],
)
def test_a_mistyped_variable_is_named_with_the_nearest_setting(name: str, meant: str) -> None:
    (found,) = unknown_variables({name: "secret-value"})
    assert found.name == name
    assert found.meant[0] == meant
    assert meant in found.remedy
    assert "secret-value" not in found.words + found.remedy


def test_what_shares_the_prefix_alone_is_not_proposed() -> None:
    assert unknown_variables({"TRAJSEG_MODLE": "1"})[0].meant == ("TRAJSEG_MODEL",)


def test_a_variable_like_no_setting_is_named_too() -> None:
    (found,) = unknown_variables({"TRAJSEG_ZZZ": "1"})
    assert found.meant == ()
    assert "docs/settings.md" in found.remedy


def test_every_setting_passes_however_it_is_spelled_and_whoever_reads_it() -> None:
    names = [str(field.validation_alias or f"TRAJSEG_{name}") for name, field in Settings.model_fields.items()]
    names += [f"TRAJSEG_GROUNDED_{field.name.upper()}" for field in fields(GroundedSettings)]
    names += ["TRAJSEG_MOLMO2_WEIGHTS", "TRAJSEG_SAM3_THRESHOLD", "TRAJSEG_OFFLINE", "TRAJSEG_WEIGHTS_DIR"]
    assert unknown_variables(dict.fromkeys(names, "1")) == []


def test_what_compose_reads_and_what_is_empty_passes() -> None:
    compose_file = Path(__file__).parents[2] / "compose.yaml"
    names = {
        word.split("${")[-1] for word in compose_file.read_text().replace(":", " ").split() if "${TRAJSEG_" in word
    }
    assert len(names) >= 4
    assert unknown_variables(dict.fromkeys(names, "1") | {"TRAJSEG_ENGNE": ""}) == []


def test_variables_of_a_third_party_engine_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = EntryPoint("my-engine", "backend.composition:compose", "trajseg.engines")
    monkeypatch.setattr(
        trajseg.variables,
        "entry_points",
        lambda group: [theirs] if group == theirs.group else entry_points(group=group),
    )
    monkeypatch.setattr(trajseg.variables, "engine_factory", lambda name: theirs.load())
    assert unknown_variables({"TRAJSEG_MY_ENGINE_ADDRESS": "1"}) == []
    assert len(unknown_variables({"TRAJSEG_MYENGINE_ADDRESS": "1"})) == 1


def test_without_the_service_nothing_is_called_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trajseg.variables, "entry_points", lambda group: [])
    assert unknown_variables({"TRAJSEG_PORT": "1", "TRAJSEG_ENGNE": "1"}) == []


def test_what_tests_read_passes() -> None:
    sources = " ".join(path.read_text() for path in Path(__file__).parents[1].rglob("conftest.py"))
    names = set(re.findall(r"TRAJSEG_(?:TEST|CHROMIUM|FUZZ|LABEL_STUDIO_ML)[A-Z_]*", sources))
    assert names
    assert unknown_variables(dict.fromkeys(names, "1")) == []


@pytest.mark.parametrize(
    "command", ["active", "caption", "compare", "evaluate", "export", "preview", "segment", "weights", "worker"]
)
def test_every_command_warns_once_on_stderr(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("TRAJSEG_GROUNDED_CHOSER", "secret-value")
    outcome = CliRunner().invoke(main, [command, "--no-such-option"])
    assert outcome.stderr.count("TRAJSEG_GROUNDED_CHOSER is set") == 1
    assert "Did you mean TRAJSEG_GROUNDED_CHOOSER" in outcome.stderr
    assert "secret-value" not in outcome.output
    assert "TRAJSEG_GROUNDED_CHOSER" not in outcome.stdout


def test_doctor_lists_it_among_its_checks_and_hosts_of_the_backend_log_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert [check.words for check in variables() if "TRAJSEG_MODLE" in check.words] == []
    monkeypatch.setenv("TRAJSEG_MODLE", "grounded")
    (check,) = [check for check in variables() if "TRAJSEG_MODLE" in check.words]
    assert check.state == "warn"
    assert "Did you mean TRAJSEG_MODEL" in check.remedy
    assert "TRAJSEG_MODLE is set" not in CliRunner().invoke(main, ["doctor", "--no-such-option"]).stderr
    with caplog.at_level(logging.WARNING, "trajseg.backend"):
        log_unknown_variables(logging.getLogger("trajseg.backend"))
    assert [line for line in caplog.messages if "TRAJSEG_MODLE" in line and "TRAJSEG_MODEL" in line]
