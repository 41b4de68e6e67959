"""The engine molmo2 with a tiny Molmo2 of the real class, overfitted to two answers and saved in the hub's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.contracts.engine import EngineContract
from tests.trajseg.engines.grounded.checkpoints import save_sam2
from tests.trajseg.engines.molmo2 import checkpoints
from trajseg.engines.base import Engine, RunContext
from trajseg.engines.molmo2.answers import track_grammar
from trajseg.engines.molmo2.engine import Molmo2Engine
from trajseg.engines.molmo2.pointer import Molmo2Pointer
from trajseg.engines.molmo2.settings import Molmo2Settings
from trajseg.engines.registry import engine_spec, load_engine
from trajseg.errors import CheckpointError, InputError, VideoError
from trajseg.tracks.mark import Mark
from trajseg.video import open_clip, write_video

FACTORY = "trajseg.engines.molmo2:factory"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    known = {"the red square": checkpoints.TRACKED, "the green square": checkpoints.NONE}
    return checkpoints.save_molmo2(tmp_path_factory.mktemp("molmo2") / "molmo2-tiny", known)


@pytest.fixture(scope="module")
def molmo2(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Molmo2Engine:
    tracker = save_sam2(tmp_path_factory.mktemp("sam2"))
    engine: Any = load_engine(FACTORY, "cpu", weights=str(folder), tracker=str(tracker), tokens=200)
    assert isinstance(engine, Molmo2Engine)
    return engine


class TestMolmo2(EngineContract):
    resumed_iou = 1.0

    @pytest.fixture
    def engine(self, molmo2: Molmo2Engine) -> Engine:
        return molmo2


def test_its_answer_is_kept_and_names_the_tracks(molmo2: Molmo2Engine, tiny_clip: Any) -> None:
    segmentation = molmo2.segment(tiny_clip.path, "the red square")
    assert segmentation.answer.endswith(checkpoints.TRACKED)
    assert [thing.caption for thing in segmentation.objects] == ["square"]
    assert molmo2.segment(tiny_clip.path, "the green square").answer == f"Nothing was found.\n{checkpoints.NONE}"


def test_random_weights_keep_to_the_grammar_and_a_cut_answer_keeps_what_is_whole(
    tmp_path: Path, tiny_clip: Any
) -> None:
    pointer = Molmo2Pointer.from_pretrained(
        checkpoints.save_molmo2(tmp_path), settings=Molmo2Settings(tokens=60, fps=1.0)
    )
    said, shown = pointer.track(open_clip(tiny_clip.path), "the star")
    assert track_grammar().can_go_on(said)
    assert shown == [0]


def test_it_sees_frames_at_its_rate_each_after_its_time(molmo2: Molmo2Engine, tmp_path: Path) -> None:
    clip = open_clip(write_video(tmp_path / "long.mp4", (np.full((32, 48, 3), n, np.uint8) for n in range(76)), 25.0))
    pointer = Molmo2Pointer(molmo2.pointer.model, molmo2.pointer.processor, Molmo2Settings(fps=2.0, frames=5))
    assert molmo2.pointer.shown(clip) == [0, 12, 25, 37, 50, 62, 75]
    assert pointer.shown(clip) == [0, 18, 37, 56, 75]
    pictures = np.stack([np.full((32, 48, 3), n, np.uint8) for n in (0, 255)])
    inputs = pointer.inputs(pictures, [0.0, 1.96], " the red square?  ")
    text = pointer.processor.tokenizer.decode(inputs["input_ids"][0])
    assert "0.0 <frame_start><im_patch><frame_end> 2.0 <frame_start><im_patch><frame_end>" in text
    assert "Track the red square.<|im_end|>" in text
    dark, light = inputs["pixel_values_videos"]
    assert dark.max() < light.min()


def test_captions_come_from_the_same_model_within_their_grammar(molmo2: Molmo2Engine, tiny_clip: Any) -> None:
    clip = open_clip(tiny_clip.path)
    tracks = molmo2.segment(clip, "the red square").result().tracks
    steps: list[tuple[int, int]] = []
    [caption] = molmo2.caption(clip, tracks, lambda done, total: steps.append((done, total)))
    assert 0 <= len(caption) <= 160
    assert steps == [(1, 1)]
    tracks[0].frames.pop()
    with pytest.raises(InputError, match=r"Track t1 has 11 frames, tiny\.mp4 has 12"):
        molmo2.caption(clip, tracks)


def test_marks_and_propagation_are_sam2s(molmo2: Molmo2Engine, tiny_clip: Any) -> None:
    clip = open_clip(tiny_clip.path)
    assert molmo2.mark(clip, Mark(0, (4, 8, 16, 16)), "").shape == (clip.height, clip.width)
    assert molmo2.propagator() is not None


def test_it_asks_before_it_works_whether_to_continue(molmo2: Molmo2Engine, tiny_clip: Any) -> None:
    steps: list[tuple[int, int]] = []
    molmo2.segment(tiny_clip.path, "the red square", RunContext(progress=lambda *step: steps.append(step)))
    assert steps[0][0] == 0
    assert steps == sorted(steps)
    with pytest.raises(VideoError):
        molmo2.segment(Path(__file__), "the red square")


def test_weights_that_are_not_here_are_named_and_never_fetched(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for missing in ({"weights": "nobody/molmo2"}, {"weights": str(folder), "tracker": "nobody/sam2"}):
        with pytest.raises(CheckpointError) as caught:
            load_engine(FACTORY, "cpu", **missing)
        assert "trajseg weights get molmo2" in caught.value.remedy


@pytest.mark.parametrize("config", ['{"model_type": "molmo_point"}', "{}", "[]", "not json", None])
def test_a_folder_of_something_else_is_refused(config: str | None, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=r"not a Molmo2|cannot be read") as caught:
        load_engine(FACTORY, "cpu", weights=str(tmp_path), tracker="trajseg-tiny")
    assert "Molmo2" in caught.value.remedy


def test_a_folder_without_a_chat_template_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.name != "chat_template.jinja":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    assert "chat_template" not in json.loads((tmp_path / "processor_config.json").read_text())
    with pytest.raises(CheckpointError, match="no chat template"):
        load_engine(FACTORY, "cpu", weights=str(tmp_path), tracker="trajseg-tiny")


def test_settings_come_from_the_environment_and_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_spec(FACTORY).model_version == "molmo2/Molmo2-4B+sam2.1-hiera-large"
    monkeypatch.setenv("TRAJSEG_MOLMO2_WEIGHTS", "allenai/Molmo2-8B@0123abc")
    assert engine_spec(FACTORY).model_version == "molmo2/Molmo2-8B+sam2.1-hiera-large"
    for wrong in ({"fps": 0}, {"frames": "all"}, {"tokens": 1}, {"objects": 100}, {"speed": 1}):
        with pytest.raises(InputError, match=r"TRAJSEG_MOLMO2|no setting"):
            Molmo2Settings.read(wrong)


def test_loading_prints_nothing(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_engine(FACTORY, "cpu", weights=str(folder), tracker=str(save_sam2(tmp_path)))
    assert capfd.readouterr() == ("", "")
