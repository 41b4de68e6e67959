"""One painted frame: the same error is corrected elsewhere, and no frame changes without evidence."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trajseg.correction import Drawn, FlowPropagator, Painted, Propagator, refine
from trajseg.progress import Progress
from trajseg.tracks import MaskTrack, rle
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import Clip, open_clip

ELSEWHERE = np.zeros((64, 96), bool)
ELSEWHERE[50:62, 6:18] = True


@dataclass
class Scripted:
    """Draws the same masks, regardless of the painted ones."""

    masks: list[np.ndarray]
    score: float = 0.9
    name: str = "scripted"
    drifts: bool = False

    def propagate(
        self, clip: Clip, painted: Painted, frames: Collection[int] | None = None, progress: Progress | None = None
    ) -> Iterator[Drawn]:
        for index in range(len(clip)) if frames is None else sorted(frames):
            yield Drawn(index, painted.get(index, self.masks[index]), self.score)


@pytest.fixture
def clip(tiny_clip: Any) -> Clip:
    return open_clip(tiny_clip.path)


def track_of(clip: Clip, masks: Sequence[np.ndarray | None]) -> MaskTrack:
    return MaskTrack.from_masks("t1", masks, clip.frame_map.times, [0.9] * len(clip))


def similarity(track: MaskTrack, truth: list[np.ndarray]) -> list[float]:
    return [region_similarity(track.mask(index, mask.shape), mask) for index, mask in enumerate(truth)]


def test_an_erased_blob_goes_wherever_it_is_seen_and_nowhere_else(clip: Clip, tiny_clip: Any) -> None:
    masks = [red | blue for red, blue in zip(tiny_clip.red, tiny_clip.blue, strict=True)]
    refined = refine(clip, track_of(clip, masks), {2: tiny_clip.red[2]}, [FlowPropagator()]).track
    assert all(np.array_equal(refined.mask(i), tiny_clip.red[i]) for i in range(12))
    assert [frame.provenance for frame in refined.frames] == [
        *["flow"] * 2, "person", *["flow"] * 5, *["model"] * 4
    ]  # fmt: skip
    assert {frame.score for frame in refined.frames if frame.provenance == "flow"} == {0.9}


def test_an_added_part_is_added_where_it_is_missing(clip: Clip, tiny_clip: Any) -> None:
    def cut(mask: np.ndarray) -> np.ndarray:
        rows = np.flatnonzero(mask.any(axis=1))
        out = mask.copy()
        out[rows[len(rows) // 2] :] = False
        return out

    masks = [cut(mask) if 3 <= index <= 8 else mask for index, mask in enumerate(tiny_clip.red)]
    refined = refine(clip, track_of(clip, masks), {5: tiny_clip.red[5]}, [FlowPropagator()]).track
    assert min(similarity(refined, tiny_clip.red)) > 0.85
    assert all(np.array_equal(refined.mask(i), masks[i]) for i in (0, 1, 2, 9, 10, 11))


def test_a_change_that_another_propagator_speaks_against_is_not_made(clip: Clip, tiny_clip: Any) -> None:
    masks = [red | blue for red, blue in zip(tiny_clip.red, tiny_clip.blue, strict=True)]
    track = track_of(clip, masks)
    against = refine(clip, track, {2: tiny_clip.red[2]}, [FlowPropagator(), Scripted(masks)]).track
    assert all(np.array_equal(against.mask(i), masks[i]) for i in range(12) if i != 2)
    speaking_for = refine(clip, track, {2: tiny_clip.red[2]}, [FlowPropagator(), Scripted(tiny_clip.red)]).track
    assert min(similarity(speaking_for, tiny_clip.red)) == 1.0


def test_a_mask_that_slides_away_takes_nothing_with_it(clip: Clip, tiny_clip: Any) -> None:
    """The carried mask leaves the object; the prediction was nearly right everywhere."""
    touched = tiny_clip.red[0] | np.roll(tiny_clip.red[0], 3, axis=0)
    sliding = Scripted([np.roll(mask, 2 * index, axis=0) for index, mask in enumerate(tiny_clip.red)])
    refined = refine(clip, track_of(clip, tiny_clip.red), {0: touched}, [sliding]).track
    assert np.array_equal(refined.mask(0), touched)
    before = similarity(track_of(clip, tiny_clip.red), tiny_clip.red)
    change = 1 - region_similarity(touched, tiny_clip.red[0])
    assert all(b - a <= 1.5 * change + 0.02 for b, a in zip(before, similarity(refined, tiny_clip.red), strict=True))


def test_what_was_missed_is_filled_in_and_what_was_found_elsewhere_stays(clip: Clip, tiny_clip: Any) -> None:
    masks = [None if index < 6 else ELSEWHERE for index in range(12)]
    refined = refine(clip, track_of(clip, masks), {3: tiny_clip.red[3]}, [FlowPropagator()]).track
    assert min(similarity(refined, tiny_clip.red)[:6]) > 0.85
    assert all(np.array_equal(refined.mask(i), ELSEWHERE) for i in range(6, 12))


@pytest.mark.parametrize("marked", [set(), {3}])
def test_what_was_missed_is_filled_in_from_a_mark_only_where_the_carried_mask_is_surer(
    clip: Clip, tiny_clip: Any, marked: set[int]
) -> None:
    masks = [None if index < 6 else ELSEWHERE for index in range(12)]
    for score, filled in ((0.65, not marked), (0.75, True)):
        scripted = Scripted(tiny_clip.red, score)
        refined = refine(clip, track_of(clip, masks), {3: tiny_clip.red[3]}, [scripted], marked=marked).track
        assert {refined.mask(i, ELSEWHERE.shape).any() for i in (0, 1, 2, 4, 5)} == {filled}


@pytest.mark.parametrize(("row", "filled"), [(0, False), (20, True)])
def test_what_is_left_of_an_object_at_the_edge_fills_no_frame_unless_it_is_sure(
    row: int, filled: bool, clip: Clip, tiny_clip: Any
) -> None:
    """Flow keeps a remnant at the picture's edge although the object has left; elsewhere a small mask may be right."""
    remnant = np.zeros((64, 96), bool)
    remnant[row : row + 4, 40:48] = True
    track = track_of(clip, [None] * 12)
    refined = refine(clip, track, {5: tiny_clip.red[5]}, [Scripted([remnant] * 12, score=0.4)]).track
    assert refined.present == (list(range(12)) if filled else [5])
    refined = refine(clip, track, {5: tiny_clip.red[5]}, [Scripted([remnant] * 12, score=0.9)]).track
    assert refined.present == list(range(12))


def test_an_object_lost_on_the_way_is_no_reason_to_take_a_mask_away(clip: Clip, tiny_clip: Any) -> None:
    nothing = [np.zeros_like(mask) for mask in tiny_clip.red]
    track = track_of(clip, tiny_clip.blue)
    refined = refine(clip, track, {3: tiny_clip.red[3]}, [Scripted(nothing), Scripted(nothing, name="other")]).track
    assert all(np.array_equal(refined.mask(i), tiny_clip.blue[i]) for i in range(12) if i != 3)


def test_a_speck_is_no_reason_to_take_a_mask_away(clip: Clip, tiny_clip: Any) -> None:
    """Two pixels at the picture's edge were painted, and flow is as sure of them as of anything."""
    speck = np.zeros_like(tiny_clip.red[0])
    speck[20, :2] = True
    track = track_of(clip, tiny_clip.blue)
    refined = refine(clip, track, {3: speck}, [Scripted([speck] * 12)]).track
    assert np.array_equal(refined.mask(3), speck)
    assert all(np.array_equal(refined.mask(i), tiny_clip.blue[i]) for i in range(12) if i != 3)


def test_a_wrong_object_is_replaced_until_the_prediction_is_right_again(clip: Clip, tiny_clip: Any) -> None:
    masks = [*tiny_clip.blue[:6], *tiny_clip.red[6:]]
    refined = refine(clip, track_of(clip, masks), {1: tiny_clip.red[1]}, [FlowPropagator()]).track
    assert min(similarity(refined, tiny_clip.red)) > 0.85
    assert [frame.provenance for frame in refined.frames][8:] == ["model"] * 4


def test_the_outline_of_a_mask_drawn_from_a_mark_changes_no_other_frame(clip: Clip, tiny_clip: Any) -> None:
    fringe = tiny_clip.red[4] | np.roll(tiny_clip.red[4], 4, axis=0)
    track = track_of(clip, [np.asarray(mask) for mask in tiny_clip.red])
    marked = refine(clip, track, {4: fringe}, [Scripted([fringe] * 12)], marked={4}).track
    assert all(np.array_equal(marked.mask(i), tiny_clip.red[i]) for i in range(12) if i != 4)


def test_progress_reaches_its_total(clip: Clip, tiny_clip: Any) -> None:
    told: list[tuple[int, int]] = []
    track = track_of(clip, [red | blue for red, blue in zip(tiny_clip.red, tiny_clip.blue, strict=True)])
    both: list[Propagator] = [FlowPropagator(), Scripted(tiny_clip.red)]
    refine(clip, track, {2: tiny_clip.red[2]}, both, lambda done, total: told.append((done, total)))
    assert told[-1] == (24, 24)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.slow
def test_a_new_track_is_carried_through_the_whole_clip_however_unsure_it_gets(clips: Path) -> None:
    """Nothing was predicted, so there is nothing to protect: a mark on one picture of a real clip is propagated."""
    clip = open_clip(clips / "yellow_box.mp4")
    marked = json.loads((Path(__file__).parents[2] / "data/real_masks/yellow_box.json").read_text())["frames"]
    key = min(marked, key=int)
    empty = MaskTrack.from_masks("t1", [None] * len(clip), clip.frame_map.times, [0.0] * len(clip))
    refined = refine(clip, empty, {int(key): rle.decode(marked[key]).astype(bool)}, [FlowPropagator()])
    assert len(refined.track.present) == len(clip)
