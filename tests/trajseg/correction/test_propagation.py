"""Painted masks are propagated: by flow on drawn and real clips, and by the better of two propagators."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from trajseg.correction import Drawn, FlowPropagator, Painted, Propagator, refine
from trajseg.correction.propagator import spans
from trajseg.correction.windows import Windows
from trajseg.errors import CancelledError, InputError
from trajseg.progress import Progress
from trajseg.tracks import MaskTrack, rle
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import Clip, open_clip, write_video

TINY_FRAMES, TINY_HEIGHT, TINY_WIDTH = 12, 64, 96
NOWHERE = np.zeros((TINY_HEIGHT, TINY_WIDTH), bool)


class StandStill:
    """Draws the mask of the nearest painted frame everywhere."""

    name = "still"
    drifts = True

    def propagate(
        self, clip: Clip, painted: Painted, frames: Collection[int] | None = None, progress: Progress | None = None
    ) -> Iterator[Drawn]:
        for index in range(len(clip)) if frames is None else sorted(frames):
            yield Drawn(index, painted[min(painted, key=lambda key: abs(key - index))], 0.2)


@pytest.fixture(scope="module")
def flow() -> FlowPropagator:
    return FlowPropagator()


def empty_track(clip: Clip) -> MaskTrack:
    times = clip.frame_map.times
    return MaskTrack.from_masks("t1", [None] * len(clip), times, [0.0] * len(clip), label="track-1", caption="a square")


def test_one_painted_frame_reaches_the_whole_clip_in_both_directions(tiny_clip: Any, flow: FlowPropagator) -> None:
    clip = open_clip(tiny_clip.path)
    drawn = list(flow.propagate(clip, {6: tiny_clip.red[6]}))
    assert [one.index for one in drawn] == list(range(TINY_FRAMES))
    assert min(region_similarity(one.mask, tiny_clip.red[one.index]) for one in drawn) > 0.85
    assert all(one.agreement is None for one in drawn)


def test_painted_frames_come_back_pixel_for_pixel_even_where_the_paint_is_nonsense(
    tiny_clip: Any, flow: FlowPropagator
) -> None:
    nonsense = np.random.default_rng(0).random((TINY_HEIGHT, TINY_WIDTH)) > 0.5
    drawn = list(flow.propagate(open_clip(tiny_clip.path), {3: nonsense, 9: tiny_clip.red[9]}))
    assert np.array_equal(drawn[3].mask, nonsense)
    assert np.array_equal(drawn[9].mask, tiny_clip.red[9])
    assert drawn[3].score == 1.0


def test_an_empty_painted_frame_says_that_the_object_has_gone(tiny_clip: Any, flow: FlowPropagator) -> None:
    clip = open_clip(tiny_clip.path)
    drawn = list(flow.propagate(clip, {2: tiny_clip.blue[2], 11: NOWHERE}))
    assert min(region_similarity(one.mask, tiny_clip.blue[one.index]) for one in drawn[:7]) > 0.8
    # It disappears at frame 8, between the painted ones: colour shows where.
    assert not any(one.mask.sum() > 20 for one in drawn[9:])
    assert all(one.agreement is None for one in drawn)


def test_frames_that_are_not_wanted_are_not_drawn(tiny_clip: Any, flow: FlowPropagator) -> None:
    clip = open_clip(tiny_clip.path)
    painted = {0: tiny_clip.red[0], 11: tiny_clip.red[11]}
    some = list(flow.propagate(clip, painted, frames=[7, 2]))
    everything = list(flow.propagate(clip, painted))
    assert [one.index for one in some] == [2, 7]
    assert all(np.array_equal(one.mask, everything[one.index].mask) for one in some)
    assert some[0].agreement is not None


def test_a_pass_that_disagrees_lowers_the_score(tiny_clip: Any, flow: FlowPropagator) -> None:
    clip = open_clip(tiny_clip.path)
    [alike] = flow.propagate(clip, {0: tiny_clip.red[0], 10: tiny_clip.red[10]}, frames=[5])
    [unlike] = flow.propagate(clip, {0: tiny_clip.red[0], 7: tiny_clip.blue[7]}, frames=[4])
    assert alike.agreement is not None
    assert unlike.agreement is not None
    assert alike.agreement > 0.8
    assert unlike.agreement < 0.2
    assert alike.score > unlike.score + 0.2


@pytest.mark.parametrize("name", ["yellow_box", "rabbit"])
def test_flow_bridges_ten_frames_of_a_real_clip(name: str, clips: Path) -> None:
    data = json.loads((clips.parent / "data" / "real_masks" / f"{name}.json").read_text())
    masks = {int(index): rle.decode(code) for index, code in data["frames"].items()}
    keys = sorted(masks)[-3:]
    [drawn] = FlowPropagator().propagate(open_clip(clips / data["clip"]), {keys[0]: masks[keys[0]]}, frames=[keys[1]])
    assert keys[1] - keys[0] == 10
    assert region_similarity(drawn.mask, masks[keys[1]]) > 0.9


@pytest.mark.parametrize(
    ("painted", "said"),
    [
        ({}, "No frame is painted"),
        ({12: NOWHERE}, "Frame 12"),
        ({-1: NOWHERE}, "Frame -1"),
        ({0: NOWHERE[:, 1:]}, "needs bool"),
        ({0: NOWHERE.astype(np.uint8)}, "needs bool"),
    ],
)
def test_paint_that_does_not_fit_the_clip_is_refused(
    tiny_clip: Any, flow: FlowPropagator, painted: Painted, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        list(flow.propagate(open_clip(tiny_clip.path), painted))


def test_the_propagator_that_draws_left_out_frames_better_is_taken(tiny_clip: Any, flow: FlowPropagator) -> None:
    clip = open_clip(tiny_clip.path)
    painted = {index: tiny_clip.red[index] for index in (0, 5, 11)}
    steps: list[tuple[int, int]] = []
    refined = refine(
        clip, empty_track(clip), painted, [StandStill(), flow], progress=lambda done, total: steps.append((done, total))
    )
    assert isinstance(StandStill(), Propagator)
    assert refined.chosen == "flow"
    assert set(refined.left_out) == {"still", "flow"}
    assert set(refined.left_out["flow"]) == {0, 5, 11}
    assert refined.left_out["flow"][5] > 0.85 > refined.left_out["still"][5]
    assert [frame.provenance for frame in refined.track.frames if frame.index in painted] == ["person"] * 3
    assert {frame.provenance for frame in refined.track.frames} == {"person", "flow"}
    assert all(np.array_equal(refined.track.mask(index), mask) for index, mask in painted.items())
    assert (refined.track.uid, refined.track.label, refined.track.caption) == ("t1", "track-1", "a square")
    assert steps == [(i + 1, 6 + TINY_FRAMES) for i in range(6 + TINY_FRAMES)]


@dataclass
class Flawed:
    """Draws the truth with an error: moved by a pixel per frame from the nearest painted one, or one pixel too thin."""

    name: str
    truth: np.ndarray
    drifts: bool

    def propagate(
        self, clip: Clip, painted: Painted, frames: Collection[int] | None = None, progress: Progress | None = None
    ) -> Iterator[Drawn]:
        for index in range(len(clip)) if frames is None else sorted(frames):
            far = min(abs(key - index) for key in painted)
            mask = self.truth[index].astype(np.uint8)
            drawn = np.roll(mask, far, axis=1) if self.drifts else cv2.erode(mask, np.ones((3, 3), np.uint8))
            yield Drawn(index, painted.get(index, drawn > 0), 1.0)


def test_errors_that_grow_with_the_distance_are_judged_where_masks_are_to_be_drawn(tiny_clip: Any) -> None:
    """A withheld painted frame is farther from the others than any frame to be drawn."""
    clip = open_clip(tiny_clip.path)
    painted = {index: tiny_clip.red[index] for index in (0, 5, 11)}
    thin, moved = Flawed("thin", tiny_clip.red, drifts=False), Flawed("moved", tiny_clip.red, drifts=True)
    refined = refine(clip, empty_track(clip), painted, [thin, moved])
    assert all(refined.left_out["moved"][key] < refined.left_out["thin"][key] for key in painted)
    assert refined.chosen == "moved"
    really = {
        one.name: np.mean([region_similarity(d.mask, tiny_clip.red[d.index]) for d in one.propagate(clip, painted)])
        for one in (thin, moved)
    }
    assert really["moved"] > really["thin"]


def test_with_one_painted_frame_the_surer_propagator_draws_what_was_missed(tiny_clip: Any) -> None:
    clip = open_clip(tiny_clip.path)
    refined = refine(clip, empty_track(clip), {4: tiny_clip.red[4]}, [StandStill(), FlowPropagator()])
    assert refined.chosen == "flow"
    assert refined.left_out == {}


def test_correcting_one_bad_frame_of_a_good_track_leaves_the_good_ones_alone(tiny_clip: Any) -> None:
    clip = open_clip(tiny_clip.path)
    masks = [*tiny_clip.red]
    masks[4] = tiny_clip.blue[4]
    track = MaskTrack.from_masks("t1", masks, clip.frame_map.times, [0.9] * len(clip))
    painted = {index: tiny_clip.red[index] for index in (1, 4, 9)}
    refined = refine(clip, track, painted, [StandStill()])
    sources = [frame.provenance for frame in refined.track.frames]
    assert [sources[i] for i in (1, 4, 9)] == ["person"] * 3
    assert [sources[i] for i in (0, 10, 11)] == ["model"] * 3
    assert np.array_equal(refined.track.mask(11), masks[11])


def test_saying_where_the_object_is_not_leaves_the_other_frames_alone(tiny_clip: Any, flow: FlowPropagator) -> None:
    clip = open_clip(tiny_clip.path)
    track = MaskTrack.from_masks("t1", tiny_clip.red, clip.frame_map.times, [0.9] * len(clip))
    refined = refine(clip, track, {10: NOWHERE}, [flow])
    assert not refined.track.mask(10).any()
    assert all(np.array_equal(refined.track.mask(i), tiny_clip.red[i]) for i in range(TINY_FRAMES) if i != 10)


def test_a_track_of_the_wrong_object_goes_altogether(tiny_clip: Any, flow: FlowPropagator) -> None:
    clip = open_clip(tiny_clip.path)
    track = MaskTrack.from_masks("t1", tiny_clip.blue[:8] + [None] * 4, clip.frame_map.times, [0.9] * len(clip))
    refined = refine(clip, track, {6: tiny_clip.red[6]}, [flow])
    assert {frame.provenance for frame in refined.track.frames} == {"person", "flow"}
    assert min(region_similarity(refined.track.mask(i), tiny_clip.red[i]) for i in range(TINY_FRAMES)) > 0.85


def test_a_refinement_survives_the_json_form_with_its_provenance(tiny_clip: Any) -> None:
    clip = open_clip(tiny_clip.path)
    track = refine(clip, empty_track(clip), {4: tiny_clip.red[4]}, [FlowPropagator()]).track
    back = MaskTrack.from_json(json.loads(json.dumps(track.to_json())), height=clip.height, width=clip.width)
    assert back.frames == track.frames
    assert back.frames[4].provenance == "person"


def test_a_cancelled_refinement_ends_at_once(tiny_clip: Any) -> None:
    clip = open_clip(tiny_clip.path)
    seen = []

    def cancel(done: int, total: int) -> None:
        seen.append(done)
        raise CancelledError("A person cancelled the job.")

    with pytest.raises(CancelledError):
        refine(clip, empty_track(clip), {4: tiny_clip.red[4]}, [FlowPropagator()], progress=cancel)
    assert seen == [1]


def test_gaps_lie_between_painted_frames_and_hold_only_what_is_wanted() -> None:
    found = list(spans(20, [5, 12], [0, 3, 5, 7, 9, 15]))
    assert [(s.before, s.after, s.first, s.last) for s in found] == [(None, 5, 0, 3), (5, 12, 7, 9), (12, None, 15, 15)]
    assert list(found[0].forward) == []
    assert list(found[0].backward) == [4, 3, 2, 1, 0]
    assert list(found[1].forward) == [6, 7, 8, 9]
    assert found[1].nearness(7) == pytest.approx((5 / 7, 2 / 7))


@pytest.mark.parametrize("overlap", [0, 1])
def test_a_long_clip_is_never_held_whole_and_decoded_seldom(tmp_path: Path, overlap: int) -> None:
    pictures = [np.full((32, 32, 3), 5 * i, np.uint8) for i in range(40)]
    clip = open_clip(write_video(tmp_path / "long.mp4", pictures, 10.0, crf=1))
    computed: list[int] = []

    def compute(pictures: Iterator[tuple[int, np.ndarray]]) -> list[tuple[int, int]]:
        got = [(index, int(picture.mean())) for index, picture in pictures]
        computed.append(got[0][0])
        return got

    windows = Windows(compute, length=8, room=4, overlap=overlap)
    readings = 0
    alive = 0
    reader = None
    for index in [*range(40), *range(39, -1, -1), 20, 3, 39, 21]:
        at, grey = windows.get(clip, index)
        assert at == index
        assert grey == pytest.approx(5 * index, abs=3)
        alive = max(alive, len(windows._kept))
        readings += windows._reader is not reader
        reader = windows._reader
    assert alive == 4
    # Forwards once; backwards only what is no longer cached.
    assert computed[:5] == [0, 8, 16, 24, 32]
    assert readings <= 5
    windows.rest()
    assert windows.get(clip, 12)[0] == 12


def test_propagation_by_flow_and_the_review_load_no_torch() -> None:
    code = "import sys, trajseg.correction, trajseg.correction.review; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
