"""Segmentations: frame by frame, whole tracks at the end, and engines that violate the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from trajseg.engines.base import EngineSpec, FrameMasks, ObjectMask, TrackedObject
from trajseg.engines.segmentation import Segmentation
from trajseg.errors import InputError, TrajSegError
from trajseg.tracks import MaskTrack, TrackFrame, rle
from trajseg.tracks.hysteresis import empty_unsure_runs
from trajseg.video import Clip, open_clip

SPEC = EngineSpec(name="test", model_version="test")
MASK = np.ones((64, 96), bool)


@pytest.fixture
def clip(tiny_clip: Any) -> Clip:
    return open_clip(tiny_clip.path)


def frame(index: int, *masks: np.ndarray | None, score: float = 0.5) -> FrameMasks:
    return FrameMasks(index, {f"t{i}": ObjectMask.of(mask, score) for i, mask in enumerate(masks, 1)})


def segmentation(clip: Clip, captions: Sequence[str], frames: Sequence[FrameMasks], **options: Any) -> Segmentation:
    objects = TrackedObject.numbered(captions)
    return Segmentation(spec=SPEC, clip=clip, instruction="x", objects=objects, frames=frames, **options)


def test_an_object_that_shows_nowhere_is_no_track(clip: Clip) -> None:
    frames = [frame(i, MASK if i > 3 else None, None, score=i / 12) for i in range(12)]
    [track] = segmentation(clip, ["here", "nowhere"], frames).result().tracks
    assert (track.uid, track.caption, track.present) == ("t1", "here", list(range(4, 12)))
    assert track.score == pytest.approx(sum(range(4, 12)) / 12 / 8)


def test_a_track_that_the_last_step_empties_is_no_track(clip: Clip) -> None:
    def finish(tracks: list[MaskTrack], masks: Mapping[str, Sequence[ObjectMask]]) -> None:
        assert [len(masks[track.uid]) for track in tracks] == [12, 12]
        empty_unsure_runs(tracks[0].frames, [0.5] * 12, 1.0)

    found = segmentation(clip, ["unsure", "sure"], [frame(i, MASK, MASK) for i in range(12)], finish=finish).result()
    assert [track.caption for track in found.tracks] == ["sure"]


def test_frames_that_come_in_any_order_end_up_in_order(clip: Clip) -> None:
    frames = [frame(i, MASK) for i in reversed(range(12))]
    part = segmentation(clip, ["a"], frames[:6], done=frames[6:])
    steps: list[int] = []
    [track] = part.result(lambda done, total: steps.append(done)).tracks
    assert [shown.index for shown in track.frames] == list(range(12))
    assert steps == list(range(7, 13))


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([frame(i, MASK) for i in range(11)], "1 of 12 frames, first frame 11"),
        ([frame(0, MASK), frame(0, MASK)], "frame 0 of 12"),
        ([frame(12, MASK)], "frame 12 of 12"),
        ([frame(0, MASK, MASK)], r"\['t1', 't2'\] in frame 0"),
        ([FrameMasks(0, {})], r"masks of \[\] in frame 0"),
    ],
)
def test_an_engine_that_breaks_the_contract_is_named(clip: Clip, frames: list[FrameMasks], words: str) -> None:
    with pytest.raises(TrajSegError, match=words) as caught:
        segmentation(clip, ["a"], frames).result()
    assert "test" in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    "data",
    [
        None,
        {"index": 0},
        {"index": -1, "masks": {}},
        {"index": True, "masks": {}},
        {"index": 0, "masks": []},
        {"index": 0, "masks": {"t1": {"rle": None, "score": 2, "presence": 0}}},
        {"index": 0, "masks": {"t1": {"rle": None, "score": 1, "presence": float("nan")}}},
        {"index": 0, "masks": {"t1": {"rle": rle.encode(MASK[1:]), "score": 1, "presence": 0}}},
        {"index": 0, "masks": {"t1": {"rle": None, "score": "much", "presence": 0}}},
    ],
)
def test_a_stored_frame_that_was_damaged_is_refused(data: Any) -> None:
    with pytest.raises(InputError):
        FrameMasks.from_json(data, height=64, width=96)


def test_hysteresis_empties_runs_without_one_sure_frame() -> None:
    shown = [1, 1, 0, 1, 1, 1, 0, 1]
    frames = [TrackFrame(i, i / 12, 0.8, rle.encode(MASK) if there else None) for i, there in enumerate(shown)]
    empty_unsure_runs(frames, [0.5, 1.0, 9, 0.5, 1.1, 0.2, 9, -1], 1.0)
    assert [one.index for one in frames if one.rle] == [3, 4, 5]
    assert [one.score for one in frames] == [0, 0, 0.8, 0.8, 0.8, 0.8, 0.8, 0]
