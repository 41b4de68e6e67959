"""An engine's confident tracks as training data, in addition to corrections; with the shapes world."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.contracts.dataset import DatasetContract
from trajseg import VideoSegmenter
from trajseg.data.dataset import Dataset
from trajseg.data.engine_tracks import PREDICTED, SURE, EngineTracks
from trajseg.data.registry import open_dataset, open_source
from trajseg.data.samples import Mixture
from trajseg.data.sides import side_of
from trajseg.errors import InputError
from trajseg.shapes.world.render import render
from trajseg.shapes.world.scenes import sample_scene
from trajseg.tracks import MaskTrack
from trajseg.tracks.formats import Expression, LabelledClip, LabelledTrack, export
from trajseg.tracks.formats.native import Native
from trajseg.tracks.trust import Trust
from trajseg.training.recipes import RECIPES, train_jointly
from trajseg.video import open_clip, write_video

FRAMES = 12
TRAIN, HELD_OUT = (
    [one for one in (f"sha256:{number}" for number in range(40)) if side_of(one) == side]
    for side in ("train", "held-out")
)


def labelled(
    tiny_clip: Any, name: str, identity: str, trust: Trust | list[Trust], score: float, **more: Any
) -> LabelledClip:
    """The tiny clip; an engine found its red square with this score, and `more` has a person's verdicts."""
    clip = open_clip(tiny_clip.path)
    red = MaskTrack.from_masks("t1", tiny_clip.red, clip.frame_map.times, [score] * FRAMES, caption="a red square")
    trusts = [trust] * FRAMES if isinstance(trust, Trust) else trust
    return LabelledClip(
        name,
        clip.width,
        clip.height,
        clip.fps,
        FRAMES,
        tracks=(LabelledTrack(red, tuple(trusts), more.get("rejected", False)),),
        expressions=more.get("expressions", (Expression("the red square", ("t1",), Trust.PREDICTED),)),
        video=f"https://videos.example/{name}.mp4",
        identity=identity,
        clip=clip,
    )


@pytest.fixture
def folder(tiny_clip: Any, tmp_path: Path) -> Path:
    nothing = (Expression("the star", (), Trust.PREDICTED),)
    clips = [
        labelled(tiny_clip, "task-1", TRAIN[0], Trust.PREDICTED, 1.0),
        labelled(tiny_clip, "task-2", TRAIN[1], [Trust.PAINTED, *[Trust.PREDICTED] * 11], (1 + SURE) / 2),
        labelled(tiny_clip, "task-3", TRAIN[2], Trust.PREDICTED, SURE - 0.05),
        labelled(tiny_clip, "task-4", TRAIN[3], Trust.PREDICTED, 1.0, rejected=True, expressions=nothing),
        labelled(tiny_clip, "task-5", HELD_OUT[0], Trust.PREDICTED, 1.0),
    ]
    export(clips, Native, tmp_path / "export")
    return tmp_path / "export"


class TestEngineTracks(DatasetContract):
    @pytest.fixture
    def dataset(self, folder: Path) -> Dataset:
        return EngineTracks(folder)


def test_confident_engine_tracks_weigh_less_than_a_person_s(folder: Path) -> None:
    sure, corrected = EngineTracks(folder)[0], EngineTracks(folder)[1]
    assert sure.objects[0].weights[5] == pytest.approx(PREDICTED)
    assert sure.expressions[0].weight == pytest.approx(PREDICTED)
    assert [corrected.objects[0].weights[index] for index in (0, 1)] == pytest.approx([1.0, PREDICTED / 2])
    assert 0 < corrected.expressions[0].weight < 1
    assert sure.objects[0].caption == "a red square"
    assert sure.objects[0].caption_weight == pytest.approx(PREDICTED)


def test_doubtful_rejected_and_held_out_tracks_are_not_used(folder: Path) -> None:
    """Nor is "no such object", if only an engine says so."""
    data = EngineTracks(folder)
    assert [data[number].name for number in range(len(data))] == ["task-1", "task-2"]


def test_corrections_exclude_engine_tracks(folder: Path) -> None:
    data = open_dataset(f"corrections:{folder}:train")
    assert [data[number].name for number in range(len(data))] == ["task-2"]
    assert data[0].annotated == (0,)


def test_it_is_for_training_only(folder: Path) -> None:
    with pytest.raises(InputError, match="not ground truth"):
        open_dataset(f"engine:{folder}")
    with pytest.raises(InputError, match="not for training"):
        open_source(f"engine:{folder}:held-out")
    with pytest.raises(InputError, match="no export"):
        open_source(f"engine:{folder}/nowhere")


def test_model_trains_on_an_engine_s_tracks_of_shapes(tmp_path: Path) -> None:
    """trajseg-tiny segments a clip of the training split; its confident tracks are training data."""
    segmenter = VideoSegmenter.from_pretrained("trajseg-tiny")
    scene = sample_scene(3, "train", frame_count=8)
    frames, _ = render(scene, 96)
    clip = open_clip(write_video(tmp_path / "3.mp4", frames, scene.fps, crf=12))
    thing = scene.objects[0]
    said = f"the {thing.size} {thing.colour} {thing.shape}"
    found = segmenter.segment(clip, said).result()
    tracks = tuple(LabelledTrack(track, (Trust.PREDICTED,) * len(clip)) for track in found.tracks)
    sentence = Expression(said, tuple(track.uid for track in found.tracks), Trust.PREDICTED)
    size = clip.width, clip.height, clip.fps, len(clip)
    export([LabelledClip("task-3", *size, tracks, (sentence,), "", TRAIN[0], clip)], Native, tmp_path / "export")
    source = open_source(f"engine:{tmp_path / 'export'}")
    sample = source.video(random.Random(0), 4, "grounding")
    assert sample.masks.any()
    assert sample.mask_weights is not None
    assert 0 < sample.mask_weights.max() <= PREDICTED
    assert 0 < sample.weight <= PREDICTED
    tiny = RECIPES["tiny"][2]
    schedule = dataclasses.replace(tiny.schedule, steps=1, warmup=1)
    recipe = dataclasses.replace(
        tiny, mixture=Mixture(0.0, 0.0, 0.0, 0.0), schedule=schedule, batch=1, micro=1, frames=2
    )
    written, _ = train_jointly(recipe, "trajseg-tiny", tmp_path / "out", source, workers=0)
    assert (written / "adapter_model.safetensors").is_file()
    assert np.isfinite(sample.mask_weights).all()
