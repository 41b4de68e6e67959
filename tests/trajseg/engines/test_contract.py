"""The contract of engines, for the shipped model, the tests' engines, and the example in the docs."""

from __future__ import annotations

import json
import re
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from torch import Tensor

from tests.contracts.engine import EngineContract
from tests.e2e.colour_engine import build
from tests.scripted import ScriptedEngine
from trajseg import VideoSegmenter
from trajseg.cli import main
from trajseg.engines import drawing
from trajseg.engines.base import Engine, FrameMasks, RunContext
from trajseg.engines.registry import load_engine
from trajseg.model.clip_tracker import ClipTracker
from trajseg.model.mask_decoder import FrameFeatures
from trajseg.shapes.dataset import write_scene
from trajseg.shapes.world.scenes import sample_scene
from trajseg.tracks import Result, rle
from trajseg.tracks.rle import iou
from trajseg.video import open_clip

ROOT = Path(__file__).parents[3]


class TestTheScriptedEngine(EngineContract):
    meant = "the red and the blue square"
    resumed_iou = 1.0

    @pytest.fixture
    def engine(self, scripted_engine: ScriptedEngine) -> Engine:
        return scripted_engine


class TestTheColourEngine(EngineContract):
    absent = "the star"
    resumed_iou = 1.0

    @pytest.fixture
    def engine(self) -> Engine:
        return build(device="")


@pytest.fixture(scope="session")
def segmenter() -> VideoSegmenter:
    return VideoSegmenter.from_pretrained("trajseg-tiny", device="cpu")


@pytest.fixture(scope="session")
def drawn_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of the shapes world, because the shipped model knows no other."""
    path = tmp_path_factory.mktemp("drawn") / "clip.mp4"
    write_scene(sample_scene(0, "test", frame_count=12), path, 160)
    return path


class TestTheShippedModel(EngineContract):
    meant = "everything that moves left"
    absent = "the yellow star"
    resumed_iou = 0.99

    @pytest.fixture
    def engine(self, segmenter: VideoSegmenter) -> Engine:
        return segmenter

    @pytest.fixture
    def video(self, drawn_video: Path) -> Path:
        return drawn_video

    def test_a_run_that_ended_in_the_middle_is_not_drawn_again(
        self, segmenter: VideoSegmenter, drawn_video: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Finished frames are encoded only if a later frame reads them; floats survive storage."""
        clip = open_clip(drawn_video)
        whole = segmenter.segment(clip, self.meant)
        frames = list(whole)
        middle = len(frames) // 2
        stored = [
            FrameMasks.from_json(json.loads(json.dumps(frame.to_json())), height=clip.height, width=clip.width)
            for frame in frames[:middle]
        ]
        drawn: list[int] = []
        draw = ClipTracker.draw

        def noted(self: ClipTracker, index: int, *arguments: Any) -> Any:
            drawn.append(index)
            return draw(self, index, *arguments)

        monkeypatch.setattr(ClipTracker, "draw", noted)
        result = segmenter.segment(clip, self.meant, RunContext(done=stored)).result()
        assert drawn == list(range(middle, len(frames)))
        assert [track.uid for track in result.tracks] == ["t1", "t2"]
        for track, undisturbed in zip(result.tracks, whole.result().tracks, strict=True):
            pairs = list(zip(track.frames, undisturbed.frames, strict=True))
            assert [a.rle for a, _ in pairs[:middle]] == [b.rle for _, b in pairs[:middle]]
            assert min(iou(a.rle, b.rle) for a, b in pairs[middle:]) > 0.9
            assert track.score == pytest.approx(undisturbed.score, abs=0.01)

    @pytest.mark.parametrize("bytes_kept", [0, drawing.KEPT_BYTES])
    def test_a_clip_is_encoded_once_for_several_instructions_as_far_as_memory_is_granted(
        self, segmenter: VideoSegmenter, drawn_video: Path, monkeypatch: pytest.MonkeyPatch, bytes_kept: int
    ) -> None:
        encoded: list[int] = []
        encode = segmenter.model.encode_frames

        def noted(pixels: Tensor) -> FrameFeatures:
            encoded.append(len(pixels))
            return encode(pixels)

        monkeypatch.setattr(segmenter.model, "encode_frames", noted)
        monkeypatch.setattr(drawing, "KEPT_BYTES", bytes_kept)
        clip, kept = open_clip(drawn_video), dict[str, Any]()
        for _ in range(2):
            segmenter.segment(clip, self.meant, RunContext(kept=kept)).result()
        assert sum(encoded) == len(clip) * (1 if bytes_kept else 2)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """The module in docs/extending.md, with its name there."""
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    [code, *_] = re.findall(r"   ```python\n(.*?)   ```", page.split("## An engine\n")[1].split("\n## ")[0], re.DOTALL)
    package, module = types.ModuleType("my_engines"), types.ModuleType("my_engines.colours")
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(textwrap.dedent("   " + code.lstrip()), "colours.py", "exec"), module.__dict__)
    return module


class TestTheEngineOfTheDocs(EngineContract):
    meant = "the red and the blue square"
    absent = "the yellow star"
    resumed_iou = 1.0

    @pytest.fixture
    def engine(self, example: types.ModuleType) -> Engine:
        engine: Engine = load_engine("my_engines.colours:Colours")
        return engine

    @pytest.mark.usefixtures("example")
    def test_the_command_line_segments_with_it(self, tiny_clip: Any, tmp_path: Path) -> None:
        arguments = ["segment", str(tiny_clip.path), "the red square", "--out", str(tmp_path)]
        outcome = CliRunner().invoke(main, [*arguments, "--model", "my_engines.colours:Colours"])
        assert outcome.exit_code == 0, outcome.output
        result = Result.load(tmp_path / "tracks.json")
        assert (result.model_version, len(result.tracks)) == ("colours-1", 1)
        assert iou(result.tracks[0].frames[5].rle, rle.encode(tiny_clip.red[5])) > 0.9

    @pytest.mark.usefixtures("example")
    def test_the_command_line_evaluates_it(self, tmp_path: Path) -> None:
        arguments = ["evaluate", "--data", "shapes:test", "--count", "1", "--height", "64"]
        file = tmp_path / "figures.json"
        outcome = CliRunner().invoke(main, [*arguments, "--model", "my_engines.colours:Colours", "--json", str(file)])
        assert outcome.exit_code == 0, outcome.output
        figures = json.loads(file.read_text())
        assert figures["model_version"] == "colours-1"
        assert figures["headline"]["caption_accuracy"] is None
        assert json.loads(outcome.stdout.splitlines()[-1])["referring_jf"] == pytest.approx(
            figures["headline"]["referring_jf"], abs=1e-4
        )
