"""`trajseg caption`: adds captions to a file of tracks; mismatching input is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from trajseg.cli import main
from trajseg.engines.base import EngineSpec
from trajseg.errors import CheckpointError
from trajseg.progress import Progress
from trajseg.tracks import MaskTrack
from trajseg.tracks import Result as Found
from trajseg.video import Clip


class TalkingEngine:
    """Captions a track with its first frame; an empty track gets no caption."""

    spec = EngineSpec(name="talking", model_version="talking", captions=True)

    def __init__(self, engine: Any) -> None:
        self.segment = engine.segment
        self.loads = 0

    def caption(self, clip: Clip, tracks: list[MaskTrack], progress: Progress | None = None) -> list[str]:
        for done in range(len(tracks)):
            if progress:
                progress(done + 1, len(tracks))
        return [f"a square from frame {track.present[0]} on" if track.present else "" for track in tracks]


@pytest.fixture
def engine(scripted_engine: Any) -> TalkingEngine:
    return TalkingEngine(scripted_engine)


@pytest.fixture
def run(engine: TalkingEngine) -> Any:
    def load(model: str, device: str | None) -> Any:
        engine.loads += 1
        return engine

    return lambda *arguments: CliRunner().invoke(main, ["caption", *map(str, arguments)], obj=load)


@pytest.fixture
def tracks(tiny_clip: Any, scripted_engine: Any, tmp_path: Path) -> Path:
    """Tracks of red, of green (which is nowhere, as after a person removed it) and of blue."""
    result: Found = scripted_engine.segment(tiny_clip.path, "red and blue").result()
    frames = [replace(frame, rle=None) for frame in result.tracks[0].frames]
    result.tracks.insert(1, MaskTrack("green", "track-green", "something green", 0.0, frames))
    return result.save(tmp_path / "tracks.json")


def captions(path: Path) -> list[str]:
    return [track.caption for track in Found.load(path).tracks]


def test_captions_come_into_the_file_and_masks_stay(run: Any, tracks: Path, tiny_clip: Any) -> None:
    before = Found.load(tracks)
    outcome: Result = run(tiny_clip.path, "--tracks", tracks)
    assert outcome.exit_code == 0, outcome.output
    # The empty track keeps its caption.
    assert captions(tracks) == ["a square from frame 0 on", "something green", "a square from frame 0 on"]
    after = Found.load(tracks)
    for old, new in zip(before.tracks, after.tracks, strict=True):
        assert old.frames == new.frames
    for word in ("track-1", "12 of 12", "8 of 12", "something red", "a square from frame 0 on"):
        assert word in outcome.stdout


def test_another_file_leaves_the_tracks_alone(run: Any, tracks: Path, tiny_clip: Any, tmp_path: Path) -> None:
    kept = tracks.read_bytes()
    outcome = run(tiny_clip.path, "--tracks", tracks, "--out", tmp_path / "new" / "out.json")
    assert outcome.exit_code == 0, outcome.output
    assert tracks.read_bytes() == kept
    assert captions(tmp_path / "new" / "out.json")[0] == "a square from frame 0 on"


def test_tracks_of_another_video_are_refused_before_the_model_is_loaded(
    run: Any, tracks: Path, clips: Path, engine: TalkingEngine
) -> None:
    other = sorted(clips.glob("*.mp4"))[0]
    outcome = run(other, "--tracks", tracks)
    assert outcome.exit_code == 2
    assert "12 frames of 96x64" in outcome.stderr
    assert engine.loads == 0


def test_a_file_without_tracks_is_refused(run: Any, tiny_clip: Any, tmp_path: Path) -> None:
    (tmp_path / "tracks.json").write_text("{}")
    outcome = run(tiny_clip.path, "--tracks", tmp_path / "tracks.json")
    assert outcome.exit_code == 2
    assert "not a trajseg result" in outcome.stderr


def test_an_engine_that_cannot_caption_says_so(tracks: Path, tiny_clip: Any, scripted_engine: Any) -> None:
    arguments = ["caption", str(tiny_clip.path), "--tracks", str(tracks)]
    outcome = CliRunner().invoke(main, arguments, obj=lambda model, device: scripted_engine)
    assert outcome.exit_code == 1
    assert "scripted cannot caption tracks" in outcome.stderr
    assert captions(tracks)[0] == "something red"


def test_a_checkpoint_that_cannot_describe_changes_nothing(
    run: Any, tracks: Path, tiny_clip: Any, engine: TalkingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> list[str]:
        raise CheckpointError("tiny cannot describe a trajectory.", "Train one that can.")

    monkeypatch.setattr(engine, "caption", refuse)
    outcome = run(tiny_clip.path, "--tracks", tracks)
    assert outcome.exit_code == 1
    assert "Train one that can" in outcome.stderr
    assert captions(tracks)[0] == "something red"
