"""Frames on which a person says that the object is present get masks propagated from neighbouring frames."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pytest

from trajseg.correction import Drawn, FlowPropagator, Painted
from trajseg.correction.filling import filled_in
from trajseg.progress import Progress
from trajseg.tracks import MaskTrack, rle
from trajseg.video import Clip, open_clip

FLOW = FlowPropagator()


@pytest.fixture
def clip(tiny_clip: Any) -> Clip:
    return open_clip(tiny_clip.path)


def track_of(clip: Clip, masks: list[np.ndarray | None]) -> MaskTrack:
    return MaskTrack.from_masks("t1", masks, clip.frame_map.times, [0.9] * len(clip), label="track-1")


class Scripted:
    """A propagator that draws one mask with one score on some frames, and nothing on the others."""

    drifts = False

    def __init__(self, name: str, mask: np.ndarray, score: float, frames: Collection[int]) -> None:
        self.name, self.mask, self.score, self.frames = name, mask, score, frames
        self.painted: list[list[int]] = []

    def propagate(
        self, clip: Clip, painted: Painted, frames: Collection[int] | None = None, progress: Progress | None = None
    ) -> Iterator[Drawn]:
        self.painted.append(sorted(painted))
        for index in sorted(frames or ()):
            drawn = self.mask if index in self.frames else np.zeros_like(self.mask)
            yield Drawn(index, drawn, self.score if index in self.frames else 0.99)


def test_the_object_is_followed_beyond_the_tracks_end_and_before_its_beginning(clip: Clip, tiny_clip: Any) -> None:
    track = track_of(clip, [mask if 3 <= index <= 7 else None for index, mask in enumerate(tiny_clip.red)])
    reported: list[tuple[int, int]] = []
    filled = filled_in(clip, track, {1, 2, 8, 9, 10}, [FLOW], lambda done, total: reported.append((done, total)))
    assert filled.present == list(range(1, 11))
    for index in (1, 2, 8, 9, 10):
        assert rle.iou(filled.frames[index].rle, rle.encode(tiny_clip.red[index])) > 0.75, index
        assert filled.frames[index].provenance == "flow"
    for index in range(3, 8):
        assert (filled.frames[index].rle, filled.frames[index].provenance) == (track.frames[index].rle, "model")
    assert reported[-1] == (5, 5)


def test_a_track_that_ends_in_a_remnant_is_carried_from_the_last_whole_mask(clip: Clip, tiny_clip: Any) -> None:
    remnant = np.zeros_like(tiny_clip.red[6])
    rows, columns = np.where(tiny_clip.red[6])
    remnant[rows.min() : rows.min() + 3, columns.min() : columns.min() + 3] = True
    masks: list[np.ndarray | None] = [*tiny_clip.red[:6], remnant, *[None] * 5]
    filled = filled_in(clip, track_of(clip, masks), {7, 8}, [FLOW])
    for index in (7, 8):
        assert rle.iou(filled.frames[index].rle, rle.encode(tiny_clip.red[index])) > 0.75, index


def test_frame_by_frame_the_surer_propagator_is_taken_and_an_empty_mask_never(clip: Clip, tiny_clip: Any) -> None:
    track = track_of(clip, [mask if index <= 5 else None for index, mask in enumerate(tiny_clip.red)])
    one = Scripted("one", tiny_clip.red[6], 0.4, {6, 7})
    other = Scripted("other", tiny_clip.blue[6], 0.6, {7, 8})
    filled = filled_in(clip, track, range(6, 10), [one, other])
    assert {frame.index: frame.provenance for frame in filled.frames[6:10]} == {
        6: "one", 7: "other", 8: "other", 9: "model",
    }  # fmt: skip
    assert filled.present == list(range(9))
    assert one.painted == other.painted == [[5]]


def test_a_gap_is_filled_from_both_sides_and_what_is_there_stays(clip: Clip, tiny_clip: Any) -> None:
    track = track_of(clip, [None if index in (4, 5) else mask for index, mask in enumerate(tiny_clip.red)])
    propagator = Scripted("one", tiny_clip.blue[4], 0.9, range(12))
    filled = filled_in(clip, track, range(2, 9), [propagator])
    assert propagator.painted == [[3, 6]]
    assert [frame.index for frame in filled.frames if frame.provenance == "one"] == [4, 5]


def test_a_track_without_a_mask_and_frames_beyond_the_clip_stay_empty(clip: Clip, tiny_clip: Any) -> None:
    propagator = Scripted("one", tiny_clip.blue[4], 0.9, range(12))
    assert filled_in(clip, track_of(clip, [None] * 12), {3, 4}, [propagator]).present == []
    assert propagator.painted == []
    track = track_of(clip, list(tiny_clip.red))
    assert filled_in(clip, track, {40, -3}, [propagator]).present == list(range(12))
