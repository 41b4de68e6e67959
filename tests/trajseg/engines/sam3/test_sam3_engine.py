"""The engine sam3 with a tiny SAM 3 of the real class, saved and loaded in the hub's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Sam3VideoConfig, Sam3VideoModel

from tests.contracts.engine import EngineContract
from tests.trajseg.engines.sam3 import checkpoints
from trajseg.engines.base import Engine
from trajseg.engines.registry import engine_spec, load_engine
from trajseg.engines.sam3.engine import Sam3Engine, noun_phrases
from trajseg.engines.sam3.search import Sam3Search
from trajseg.engines.sam3.session import FlatSession
from trajseg.engines.sam3.settings import Sam3Settings
from trajseg.errors import CheckpointError, InputError, InstructionError
from trajseg.tracks import rle
from trajseg.video import open_clip

FACTORY = "trajseg.engines.sam3:factory"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.save_sam3(tmp_path_factory.mktemp("sam3") / "sam3-tiny")


@pytest.fixture(scope="module")
def sam3(folder: Path) -> Sam3Engine:
    engine: Any = load_engine(FACTORY, "cpu", weights=str(folder))
    assert isinstance(engine, Sam3Engine)
    return engine


class TestSam3(EngineContract):
    meant = "the red square"
    absent = "the yellow star"
    resumed_iou = 1.0

    @pytest.fixture
    def engine(self, sam3: Sam3Engine) -> Engine:
        return sam3


def test_several_phrases_share_one_pass_and_name_their_tracks(sam3: Sam3Engine, tiny_clip: Any) -> None:
    clip = open_clip(tiny_clip.path)
    passes: list[int] = []
    hook = sam3.search.model.detector_model.vision_encoder.register_forward_hook(lambda *_: passes.append(1))
    segmentation = sam3.segment(clip, "the yellow star, the red square; red square, a green square")
    hook.remove()
    assert len(passes) == len(clip)
    assert segmentation.answer.startswith("Looked for: yellow star, red square, green square.")
    captions = {thing.caption for thing in segmentation.objects}
    assert "red square" in captions
    assert "yellow star" not in captions


def test_an_object_that_two_phrases_find_is_one_track(folder: Path, tiny_clip: Any) -> None:
    engine: Any = load_engine(FACTORY, "cpu", weights=str(folder), threshold=0.01, certain=0.02)
    clip = open_clip(tiny_clip.path)
    tracks = engine.segment(clip, "red square, thing").result().tracks
    for number, track in enumerate(tracks):
        for other in tracks[number + 1 :]:
            same = [rle.iou(a.rle, b.rle) > 0.6 for a, b in zip(track.frames, other.frames, strict=True) if a.rle]
            assert sum(same) < 0.6 * len(track.present)


def test_phrases_lose_their_articles_and_doubles() -> None:
    assert noun_phrases("The red car; a person,person\nall dogs.") == ["red car", "person", "dogs"]
    with pytest.raises(InstructionError, match="names nothing"):
        noun_phrases("the, a;")


def test_a_phrase_of_more_tokens_than_it_reads_is_refused(sam3: Sam3Engine, tiny_clip: Any) -> None:
    with pytest.raises(InstructionError, match="at most 32 tokens"):
        sam3.segment(tiny_clip.path, "red " * 31 + "square")


@pytest.mark.slow
def test_its_memory_is_flat_and_forgets_nothing_that_it_reads(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same masks as without deletion, and constant memory beyond the tracker's reach."""
    import numpy as np

    from trajseg.video import write_video

    pictures = (np.roll(np.eye(64, 96, dtype=np.uint8)[..., None].repeat(3, 2) * 255, n, 1) for n in range(54))
    clip = open_clip(write_video(tmp_path / "long.mp4", pictures, 25.0))
    # Reconditioning every 2nd frame, so that conditioning frames come and go, too.
    search = Sam3Search.from_pretrained(folder)
    search.model.recondition_every_nth_frame, search.model.max_num_objects = 2, 1
    search.model.high_conf_thresh = search.model.high_iou_thresh = 0.0
    sizes: list[int] = []
    forget = FlatSession.forget

    def measured(self: FlatSession, index: int) -> None:
        forget(self, index)
        sizes.append(held(self))

    monkeypatch.setattr(FlatSession, "forget", measured)
    flat = search.find(clip, ["red square"])
    assert max(sizes[46:]) <= max(sizes[:46])
    monkeypatch.setattr(FlatSession, "forget", lambda self, index: None)
    kept = search.find(clip, ["red square"])
    assert len(kept) == len(flat) > 0
    for one, other in zip(flat, kept, strict=True):
        assert [frame.rle for frame in one.frames[:32]] == [frame.rle for frame in other.frames[:32]]


def held(session: FlatSession) -> int:
    """Bytes of all tensors that a session refers to."""
    found: dict[int, int] = {}
    level: list[Any] = [vars(session), vars(session.cache)]
    while level:
        below: list[Any] = []
        for thing in level:
            if isinstance(thing, torch.Tensor):
                found[thing.data_ptr()] = thing.numel() * thing.element_size()
            elif isinstance(thing, dict):
                below += thing.values()
            elif isinstance(thing, list | tuple):
                below += thing
        level = below
    return sum(found.values())


def test_weights_that_are_not_here_are_named_and_never_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError) as caught:
        load_engine(FACTORY, "cpu", weights="nobody/sam3-of-nobody")
    assert "trajseg weights get sam3" in caught.value.remedy


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match=r"The SAM 3 .* cannot be loaded"):
        load_engine(FACTORY, "cpu", weights=str(tmp_path))


def test_settings_come_from_the_environment_and_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_spec(FACTORY).model_version == "sam3"
    monkeypatch.setenv("TRAJSEG_SAM3_WEIGHTS", "/models/sam3-of-mine")
    assert engine_spec(FACTORY).model_version == "sam3/sam3-of-mine"
    for wrong in ({"threshold": 0.9}, {"certain": "much"}, {"objects": 0}, {"speed": 1}):
        with pytest.raises(InputError, match=r"TRAJSEG_SAM3|no setting"):
            Sam3Settings.read(wrong)


def test_the_published_size_is_that_of_the_default_configuration() -> None:
    """About 850 million parameters, as the paper on SAM 3 says; the gated checkpoint's names could not be compared."""
    with torch.device("meta"):
        model = Sam3VideoModel(Sam3VideoConfig())
    count = sum(parameter.numel() for parameter in model.parameters())
    assert 0.82e9 < count < 0.88e9


def test_grounded_takes_its_candidates_from_sam3_where_the_detector_is_one(
    folder: Path, tmp_path: Path, tiny_clip: Any
) -> None:
    from tests.trajseg.engines.grounded.checkpoints import save_sam2

    tracker = save_sam2(tmp_path / "tracker")
    engine: Any = load_engine(
        "trajseg.engines.grounded:factory", "cpu", detector=str(folder), tracker=str(tracker), chooser="none"
    )
    assert isinstance(engine.search, Sam3Search)
    result = engine.segment(open_clip(tiny_clip.path), "the red square").result()
    assert [track.caption for track in result.tracks] == ["red square"] * len(result.tracks)
    assert result.tracks
    assert engine.segment(open_clip(tiny_clip.path), "the yellow star").result().tracks == []


def test_loading_prints_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_engine(FACTORY, "cpu", weights=str(folder))
    assert capfd.readouterr() == ("", "")
