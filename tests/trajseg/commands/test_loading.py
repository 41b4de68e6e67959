"""--dtype and --four-bit: what a command loads, and its error if that is impossible."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from backend.settings import Settings, load_settings
from trajseg import VideoSegmenter
from trajseg.cli import main
from trajseg.engines.registry import load_engine
from trajseg.errors import InputError, TrajSegError
from worker.state import WorkerState

CLIP = Path(__file__).parents[2] / "clips" / "yellow_box.mp4"
WORKER_TESTS = Path(__file__).parents[2] / "worker"


@pytest.mark.parametrize(
    "arguments",
    [
        ["segment", CLIP, "a box", "--out", "{}"],
        ["preview", CLIP, "a box", "--out", "{}/p.png"],
        ["evaluate", "--data", "shapes:test", "--count", "1", "--height", "64"],
        ["compare", CLIP, "a box", "--engines", "one,other", "--out", "{}"],
    ],
)
def test_a_command_loads_the_engine_in_the_format_that_it_was_given(arguments: list[Any], tmp_path: Path) -> None:
    loads: list[dict[str, Any]] = []

    def loader(name: str, device: str | None = None, **options: Any) -> Any:
        loads.append(options)
        raise InputError("Seen.", "")

    words = [str(argument).format(tmp_path) for argument in arguments]
    for more in ([], ["--dtype", "bfloat16", "--four-bit"]):
        done = CliRunner().invoke(main, [*words, *more], obj=loader)
        assert "Seen." in done.output, done.output
    assert loads == [{}, {"dtype": "bfloat16", "four_bit": True}]


def test_a_checkpoint_is_loaded_in_bfloat16_and_answers() -> None:
    engine = load_engine("trajseg-tiny", "cpu", dtype="bfloat16")
    assert isinstance(engine, VideoSegmenter)
    assert {str(parameter.dtype) for parameter in engine.model.parameters()} == {"torch.bfloat16"}
    assert engine.answer(CLIP, "the yellow box").text


def test_the_worker_loads_what_its_settings_say(tmp_path: Path) -> None:
    resident = WorkerState.load(Settings(data_dir=tmp_path, device="cpu", dtype="bfloat16"))
    try:
        assert str(resident.engine.model.dtype) == "torch.bfloat16"  # type: ignore[attr-defined]
    finally:
        resident.store.close()


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAJSEG_DTYPE", "bfloat16")
    monkeypatch.setenv("TRAJSEG_FOUR_BIT", "1")
    settings = load_settings()
    assert (settings.dtype, settings.four_bit) == ("bfloat16", True)
    monkeypatch.setenv("TRAJSEG_DTYPE", "int3")
    with pytest.raises(InputError, match="TRAJSEG_DTYPE"):
        load_settings()


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_four_bits_without_bitsandbytes_name_the_package() -> None:
    with pytest.raises(TrajSegError, match="pip install bitsandbytes"):
        load_engine("trajseg-tiny", "cpu", four_bit=True)


def test_a_missing_gpu_is_named() -> None:
    with pytest.raises(InputError, match="cuda:99"):
        load_engine("trajseg-tiny", "cuda:99", dtype="bfloat16")


@pytest.mark.parametrize(("dtype", "words"), [("float16", "On a CPU"), ("int8", "int8"), ("nonsense", "nonsense")])
def test_a_format_that_cannot_be_is_refused_before_weights_are_read(dtype: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_engine("trajseg-tiny", "cpu", dtype=dtype)


def test_an_engine_that_chooses_by_itself_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(WORKER_TESTS), *sys.path])
    with pytest.raises(InputError, match="has no option dtype"):
        load_engine("scripted_engine:build", "cpu", dtype="bfloat16")


@pytest.mark.parametrize("command", ["serve", "worker", "segment", "caption", "evaluate", "preview", "compare"])
def test_every_command_that_loads_an_engine_has_the_options(command: str) -> None:
    shown = CliRunner().invoke(main, [command, "--help"]).output
    assert "--dtype" in shown
    assert "--four-bit" in shown
