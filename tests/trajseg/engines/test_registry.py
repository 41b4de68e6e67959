"""Engines by name: checkpoints, factories and entry points; what is known before loading."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import trajseg
from trajseg.engines import registry
from trajseg.engines.base import EngineSpec
from trajseg.engines.registry import engine_spec, load_engine, nothing_found
from trajseg.errors import CheckpointError, InputError

WORKER_TESTS = Path(__file__).parents[2] / "worker"


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `scripted_engine:...` importable, like a third-party package."""
    monkeypatch.syspath_prepend(str(WORKER_TESTS))


@pytest.mark.usefixtures("scripted")
def test_a_factory_is_named_by_module_and_attribute() -> None:
    engine = load_engine("scripted_engine:build", "cpu")
    assert engine.spec.model_version == "scripted-paced"
    assert engine.device == "cpu"  # type: ignore[attr-defined]
    assert engine_spec("scripted_engine:build") == engine.spec


@pytest.mark.usefixtures("scripted")
def test_an_entry_point_gives_an_engine_a_short_name(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("paced", "scripted_engine:build", registry.GROUP)
    monkeypatch.setattr(
        registry, "entry_points", lambda group, name: [point] if (group, name) == (registry.GROUP, "paced") else []
    )
    assert load_engine("paced").spec.model_version == "scripted-paced"
    assert engine_spec("paced").several


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("scripted_engine:nothing", "nothing"),
        ("no_such_module:build", "no_such_module"),
        ("scripted_engine:misnamed", "scripted-paced"),
        ("scripted_engine:no_engine", "no spec"),
        ("scripted_engine:annotations", "_Feature"),
        ("/no/checkpoint", "/no/checkpoint"),
    ],
)
def test_an_engine_that_cannot_be_loaded_is_named_with_a_remedy(model: str, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        load_engine(model)
    assert model in caught.value.message
    assert caught.value.remedy


@pytest.mark.usefixtures("scripted")
def test_a_factory_without_a_spec_can_be_used_but_not_served() -> None:
    assert load_engine("scripted_engine:without_spec").spec.model_version == "scripted-paced"
    with pytest.raises(CheckpointError, match="no spec") as caught:
        engine_spec("scripted_engine:without_spec")
    assert "class attribute" in caught.value.remedy


def test_the_spec_of_a_checkpoint_is_that_of_its_engine(tmp_path: Path) -> None:
    spec = engine_spec("trajseg-tiny")
    assert spec == load_engine("trajseg-tiny", "cpu").spec
    assert spec.sentences
    assert spec.captions
    assert spec.propagates
    (tmp_path / "config.json").write_text(json.dumps({"model_name": "mine"}))
    bare = engine_spec(str(tmp_path))
    assert (bare.model_version, bare.captions, bare.marks) == ("mine", False, False)
    assert bare.sentences


def test_the_spec_of_a_checkpoint_is_read_without_torch() -> None:
    code = "import sys; from trajseg.engines.registry import engine_spec; engine_spec('trajseg-tiny'); "
    code += "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("version", ["", "two words", "x" * 101, "-\n"])
def test_a_model_version_that_label_studio_could_not_show_is_refused(version: str) -> None:
    with pytest.raises(InputError, match="model version") as caught:
        EngineSpec(name="bad", model_version=version)
    assert caught.value.remedy


def test_a_person_whose_video_shows_no_shapes_is_sent_to_the_engine_for_it() -> None:
    assert nothing_found("grounded/tiny") == "No such object: no tracks."
    assert nothing_found("trajseg-tiny").startswith("No such object: no tracks. trajseg-tiny only knows")
    assert "use the engine grounded" in nothing_found("trajseg-tiny")


def test_what_trajseg_exports() -> None:
    assert trajseg.__all__ == ["Clip", "MaskTrack", "Result", "VideoSegmenter", "__version__", "load_engine"]
    assert all(getattr(trajseg, name) is not None for name in trajseg.__all__)
    code = "import sys; from trajseg import Clip, MaskTrack, Result, load_engine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_ships_has_a_licence_and_a_size_and_others_may_state_theirs(tmp_path: Path) -> None:
    shipped = engine_spec("trajseg-tiny")
    assert (shipped.licence, shipped.memory_gb) == ("Apache-2.0", 1.1)
    (tmp_path / "config.json").write_text(
        json.dumps({"model_name": "mine", "licence": "CC-BY-4.0", "memory_gb": 15}), encoding="utf-8"
    )
    mine = engine_spec(str(tmp_path))
    assert (mine.licence, mine.memory_gb) == ("CC-BY-4.0", 15.0)


def test_options_may_name_other_weights_and_so_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def factory(device: str, weights: str = "a") -> object:
        class Engine:
            spec = EngineSpec(name="e", model_version=weights)

        return Engine()

    factory.spec = EngineSpec(name="e", model_version="a")  # type: ignore[attr-defined]
    monkeypatch.setattr(registry, "engine_factory", lambda name: factory)
    assert load_engine("e", weights="b").spec.model_version == "b"
    factory.spec = EngineSpec(name="e", model_version="c")  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="declares version c, but its engine a"):
        load_engine("e")
