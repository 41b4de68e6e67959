"""Painted masks are propagated, stay as painted, and do not change tracks that nobody touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.label_studio.outgoing.pictures import shown_frames
from backend.settings import Settings
from backend.store import Change, Job, JobRequest, PaintedTrack, ReadAnnotation, Store
from backend.store.notes import TrackWarning
from backend.store.params import TrackMark
from trajseg.engines.base import PLAIN, EngineSpec, RunContext
from trajseg.engines.segmentation import Segmentation
from trajseg.progress import Progress
from trajseg.tracks import MaskTrack, Result, rle
from trajseg.tracks.mark import Mark
from trajseg.video import Clip, open_clip
from worker.kinds.refining import Refiner, source_tracks
from worker.run import keep, run
from worker.state import WorkerState


@pytest.fixture
def clip(tiny_clip: Any) -> Clip:
    return open_clip(tiny_clip.path)


def track_of(clip: Clip, masks: list[np.ndarray | None], label: str = "track-1", uid: str = "t1") -> MaskTrack:
    return MaskTrack.from_masks(uid, masks, clip.frame_map.times, [0.9] * len(clip), label=label)


def iou(track: MaskTrack, index: int, truth: np.ndarray) -> float:
    return rle.iou(track.frames[index].rle, rle.encode(truth))


def painted(masks: dict[int, np.ndarray | None], shown: set[int], label: str = "track-1", **of: Any) -> PaintedTrack:
    codes = {index: None if mask is None else rle.encode(mask) for index, mask in masks.items()}
    return PaintedTrack(label, of.pop("track_uid", "t1"), of.pop("job_id", "job"), codes, shown=shown, **of)


def test_painted_frames_stay_and_the_others_follow(clip: Clip, tiny_clip: Any, scripted_engine: Any) -> None:
    """The prediction is beside the object everywhere; a person corrects it on two frames."""
    track = track_of(clip, [np.roll(mask, 24, axis=0) for mask in tiny_clip.red])
    notches = {2: tiny_clip.red[2].copy(), 8: tiny_clip.red[8].copy()}
    for mask in notches.values():
        mask[8:10] = False
    told: list[tuple[int, int]] = []
    refined = Refiner(scripted_engine, clip, "the red square").run(
        [track], [painted(notches, set(range(12)))], progress=lambda done, total: told.append((done, total))
    )
    (made,) = refined.tracks
    for index, mask in notches.items():
        assert np.array_equal(made.mask(index), mask)
        assert made.frames[index].provenance == "person"
    for index in (0, 4, 5, 6, 10, 11):
        assert iou(made, index, tiny_clip.red[index]) > 0.75, index
    (note,) = refined.notes
    assert (note.chosen, note.painted) == ("flow", (2, 8))
    assert note.left_out["flow"].keys() == {2, 8}
    assert told[-1] == (12, 12)


def test_a_correction_goes_no_further_than_the_error(clip: Clip, tiny_clip: Any, scripted_engine: Any) -> None:
    """The prediction is lost only in the middle: what was right before and after stays pixel for pixel."""
    masks = [np.roll(mask, 30, axis=0) if 5 <= index <= 7 else mask for index, mask in enumerate(tiny_clip.red)]
    track = track_of(clip, list(masks))
    refined = Refiner(scripted_engine, clip, "x").run([track], [painted({6: tiny_clip.red[6]}, set(range(12)))])
    (made,) = refined.tracks
    for index in (5, 6, 7):
        assert iou(made, index, tiny_clip.red[index]) > 0.75
    for index in (0, 1, 2, 10, 11):
        assert made.frames[index] == replace(track.frames[index], provenance="model")


def test_tracks_that_nobody_touched_are_left_alone(clip: Clip, tiny_clip: Any, scripted_engine: Any) -> None:
    red = track_of(clip, [np.roll(mask, 24, axis=0) for mask in tiny_clip.red])
    blue = track_of(clip, list(tiny_clip.blue), "track-2", "t2")
    added = painted({5: tiny_clip.blue[5]}, {5}, "track-3", track_uid="drawn-track-3", job_id=None)
    refined = Refiner(scripted_engine, clip, "x").run([red, blue], [painted({}, {0, 5}), added])
    assert [track.label for track in refined.tracks] == ["track-1", "track-2", "track-3"]
    assert refined.tracks[:2] == [red, blue]
    assert refined.tracks[2].uid == "drawn-track-3"
    assert iou(refined.tracks[2], 4, tiny_clip.blue[4]) > 0.75


def test_a_track_that_was_removed_wholly_is_gone(clip: Clip, tiny_clip: Any, scripted_engine: Any) -> None:
    red, blue = track_of(clip, list(tiny_clip.red)), track_of(clip, list(tiny_clip.blue), "track-2", "t2")
    refined = Refiner(scripted_engine, clip, "x").run([red, blue], [painted({0: None, 6: None, 11: None}, set())])
    assert refined.tracks == [blue]


def test_where_it_was_only_removed_nothing_else_is_lost(clip: Clip, tiny_clip: Any, scripted_engine: Any) -> None:
    track = track_of(clip, list(tiny_clip.red))
    refined = Refiner(scripted_engine, clip, "x").run([track], [painted({8: None, 11: None}, {0, 4})])
    assert refined.tracks[0].present == [0, 1, 2, 3, 4, 5, 6]
    assert refined.evidence["t1"].painted == [8, 11]


def test_a_longer_range_is_filled_in_and_what_was_not_found_is_noted(
    clip: Clip, tiny_clip: Any, scripted_engine: Any
) -> None:
    track = track_of(clip, [mask if index <= 6 else None for index, mask in enumerate(tiny_clip.red)])
    longer = PaintedTrack("track-1", "t1", "job", shown=set(range(7)), extended={7, 8})
    unknown = PaintedTrack("track-5", "drawn-track-5", extended={7, 8})
    refined = Refiner(scripted_engine, clip, "x").run([track], [longer, unknown])
    (made,) = refined.tracks
    assert made.present == list(range(9))
    assert iou(made, 8, tiny_clip.red[8]) > 0.75
    (note,) = refined.notes
    assert (note.extended, note.missing, note.carried, note.painted) == ((7, 8), (), 2, ())

    empty = track_of(clip, [None] * 12)
    refined = Refiner(scripted_engine, clip, "x").run([empty], [longer])
    assert (refined.notes[0].extended, refined.notes[0].missing) == ((), (7, 8))


def test_a_longer_range_follows_what_was_corrected_with_it(clip: Clip, tiny_clip: Any, scripted_engine: Any) -> None:
    """The prediction is beside the object; a person corrects it on the last frame with it."""
    masks = [np.roll(mask, 24, axis=0) if index <= 6 else None for index, mask in enumerate(tiny_clip.red)]
    corrected = painted({6: tiny_clip.red[6], 2: tiny_clip.red[2]}, set(range(7)), extended={9, 10})
    refined = Refiner(scripted_engine, clip, "x").run([track_of(clip, masks)], [corrected])
    (made,) = refined.tracks
    (note,) = refined.notes
    assert (note.painted, note.missing) == ((2, 6), ())
    for index in (9, 10):
        assert iou(made, index, tiny_clip.red[index]) > 0.75


def test_a_rectangle_makes_a_track(clip: Clip, tiny_clip: Any, scripted_engine: Any) -> None:
    blue = track_of(clip, list(tiny_clip.blue), "track-2", "t2")
    mark = TrackMark(label="track-1", index=3, box=(20.0, 6.0, 20.0, 20.0), point=False)
    refined = Refiner(scripted_engine, clip, "x").run([blue], [], [mark])
    assert refined.tracks[0] == blue
    assert refined.tracks[1].label == "track-1"
    assert iou(refined.tracks[1], 3, tiny_clip.red[3]) > 0.75
    assert iou(refined.tracks[1], 6, tiny_clip.red[6]) > 0.6
    assert refined.tracks[1].frames[3].provenance == "hint"


def test_a_moved_box_is_segmented_again(clip: Clip, tiny_clip: Any, scripted_engine: Any) -> None:
    """In the box view a person only marks where the object is."""
    track = track_of(clip, [np.roll(mask, 24, axis=0) for mask in tiny_clip.red])
    moved = PaintedTrack("track-1", "t1", "job", boxes={4: (26.0, 6.0, 20.0, 20.0)}, shown=set(range(12)))
    refined = Refiner(scripted_engine, clip, "x").run([track], [moved])
    (made,) = refined.tracks
    assert iou(made, 4, tiny_clip.red[4]) > 0.75
    assert made.frames[4].provenance == "hint"
    assert iou(made, 6, tiny_clip.red[6]) > 0.6
    assert refined.notes[0].hinted == (4,)


class Marking:
    """An engine that answers every mark with a mask, if its weights can, and records its arguments."""

    def __init__(self, marks: bool, mask: np.ndarray) -> None:
        self.spec, self.mask = EngineSpec(name="marking", model_version="marking", marks=marks), mask
        self.known: list[int] = []

    def segment(self, clip: Clip, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        raise NotImplementedError

    def mark(
        self, clip: Clip, mark: Mark, instruction: str, known: Mapping[int, np.ndarray] | None = None
    ) -> np.ndarray:
        assert (mark.point, instruction) == (True, "the red one")
        self.known = sorted(known or {})
        return self.mask


MARK = TrackMark(label="track-1", index=3, box=(28, 14, 1, 1), point=True)


def test_an_engine_that_can_segments_the_mark(clip: Clip, tiny_clip: Any) -> None:
    (made,) = Refiner(Marking(True, tiny_clip.red[2]), clip, "the red one").run([], [], [MARK]).tracks
    assert np.array_equal(made.mask(3), tiny_clip.red[2])


def test_weights_that_never_saw_boxes_are_not_asked(clip: Clip, tiny_clip: Any) -> None:
    (made,) = Refiner(Marking(False, tiny_clip.blue[3]), clip, "the red one").run([], [], [MARK]).tracks
    assert iou(made, 3, tiny_clip.red[3]) > 0.75


@pytest.mark.parametrize("missed", ["nothing", "blue"])
def test_where_an_engine_misses_the_mark_colours_decide(missed: str, clip: Clip, tiny_clip: Any) -> None:
    mask = tiny_clip.blue[3] & (missed == "blue")
    (made,) = Refiner(Marking(True, mask), clip, "the red one").run([], [], [MARK]).tracks
    assert iou(made, 3, tiny_clip.red[3]) > 0.75


@pytest.mark.parametrize("marks", [True, False])
def test_a_marks_model_draws_before_the_engine(marks: bool, clip: Clip, tiny_clip: Any) -> None:
    model = Marking(True, tiny_clip.red[4])
    engine = Marking(marks, tiny_clip.red[2])
    (made,) = Refiner(engine, clip, "the red one", marks_model=model).run([], [], [MARK]).tracks
    assert np.array_equal(made.mask(3), tiny_clip.red[4])
    model.mask = tiny_clip.blue[3]
    (made,) = Refiner(engine, clip, "the red one", marks_model=model).run([], [], [MARK]).tracks
    if marks:
        assert np.array_equal(made.mask(3), tiny_clip.red[2])
    else:
        assert iou(made, 3, tiny_clip.red[3]) > 0.75


def test_an_engine_gets_the_known_masks_of_the_marked_object(clip: Clip, tiny_clip: Any) -> None:
    """Painted masks take precedence over predictions on either side of the mark."""
    track = track_of(clip, [None if index in (2, 3) else mask for index, mask in enumerate(tiny_clip.red)])
    engine = Marking(True, tiny_clip.red[3])
    Refiner(engine, clip, "the red one").run([track], [], [MARK])
    assert engine.known == [1, 4]
    Refiner(engine, clip, "the red one").run([track], [painted({9: tiny_clip.red[9]}, {9})], [MARK])
    assert engine.known == [9]


def test_tracks_are_known_by_the_label_that_a_person_saw(clip: Clip, tiny_clip: Any) -> None:
    """A suggestion that was accepted comes from another job, and may have the same uid."""
    size = (clip.width, clip.height, len(clip))
    base = Result("v", clip.fps, *size, "red", "", "m", [track_of(clip, list(tiny_clip.red))])
    other = Result("v", clip.fps, *size, "blue", "", "m", [track_of(clip, list(tiny_clip.blue))])
    tracks = source_tracks(
        base,
        [painted({}, {0}, "track-4", job_id="base"), painted({}, {0}, "track-2", job_id="other")],
        {"other": other}.get,
        "base",
    )
    assert [(track.label, track.uid) for track in tracks] == [("track-4", "t1"), ("track-2", "t1-2")]


def test_what_the_base_has_refined_does_not_come_back_as_it_was_before(clip: Clip, tiny_clip: Any) -> None:
    """An annotation that refined tracks were adopted into names the job that predicted its painted frames first."""
    size = (clip.width, clip.height, len(clip))
    refined = Result("v", clip.fps, *size, "red", "", "m", [track_of(clip, list(tiny_clip.red))])
    before = Result("v", clip.fps, *size, "red", "", "m", [track_of(clip, list(tiny_clip.blue))])
    label = refined.tracks[0].label
    told = [painted({}, {0}, label, job_id="before")]
    [track] = source_tracks(refined, told, {"before": before}.get, "refined", {"refined", "before"})
    assert track.frames == refined.tracks[0].frames


def test_a_negative_box_takes_away_what_the_track_shows_in_it(clip: Clip, tiny_clip: Any) -> None:
    track = track_of(clip, list(tiny_clip.red))
    left = tiny_clip.red[3].copy()
    left[:, :30] = False
    mark = TrackMark(label=track.label, index=3, box=(0.0, 0.0, 30.0, 64.0), point=False, negative=True)
    refined = Refiner(Marking(True, tiny_clip.red[3]), clip, "it").run([track], [], [mark])
    assert np.array_equal(refined.tracks[0].mask(3), left)
    assert refined.tracks[0].frames[3].provenance == "hint"


def test_a_negative_click_takes_the_piece_under_it_and_no_other_frame(clip: Clip, tiny_clip: Any) -> None:
    track = track_of(clip, [red | blue for red, blue in zip(tiny_clip.red, tiny_clip.blue, strict=True)])
    rows, columns = np.where(tiny_clip.blue[2])
    at = (float(columns.mean()) - 0.5, float(rows.mean()) - 0.5, 1.0, 1.0)
    mark = TrackMark(label=track.label, index=2, box=at, point=True, negative=True)
    refined = Refiner(Marking(True, tiny_clip.red[2]), clip, "it").run([track], [], [mark])
    assert np.array_equal(refined.tracks[0].mask(2), tiny_clip.red[2] & ~tiny_clip.blue[2])


def test_a_negative_mark_on_all_of_a_mask_clears_that_frame_alone(clip: Clip, tiny_clip: Any) -> None:
    track = track_of(clip, list(tiny_clip.red))
    mark = TrackMark(label=track.label, index=5, box=(0.0, 0.0, 96.0, 64.0), point=False, negative=True)
    refined = Refiner(Marking(True, tiny_clip.red[5]), clip, "it").run([track], [], [mark])
    assert [frame.index for frame in refined.tracks[0].frames if frame.rle is None] == [5]


# Jobs


@pytest.fixture
def resident(tmp_path: Path, store: Store, scripted_engine: Any, tiny_clip: Any) -> Iterator[WorkerState]:
    settings = Settings(
        data_dir=tmp_path / "data",
        media_dirs=(str(tiny_clip.path.parent),),
        label_studio_url="http://127.0.0.1:9",
        max_key_frames=6,
    )
    kept = WorkerState(settings, store, scripted_engine)
    keep(kept)
    yield kept
    keep(None)


@pytest.fixture
def corrected(
    store: Store, resident: WorkerState, tiny_clip: Any
) -> Callable[[dict[int, np.ndarray]], tuple[Job, Job]]:
    """A done prelabel job, and the refine job for an annotation of it in which these frames were painted."""

    def make(
        frames: dict[int, np.ndarray], label: str = "track-1", uid: str = "t1", **captions: str
    ) -> tuple[Job, Job]:
        project = store.projects.upsert(1, "http://127.0.0.1:9", "<View/>")
        video = str(tiny_clip.path)
        base, _ = store.jobs.add("prelabel", project.id, 7, video, "the red square", "prelabel")
        run(base.id)
        read = ReadAnnotation(project.id, 7, 3, "v1", datetime.now(UTC), "ada", base.id, captions=captions)
        source = base.id if uid == "t1" else None
        changes = [
            Change(label, index, "edited", uid, source, "scripted", rle=rle.encode(mask))
            for index, mask in frames.items()
        ]
        params = {"annotation_id": 3, "base_job_id": base.id}
        request = JobRequest("refine", project.id, 7, video, "the red square", "interactive", params, subject="a")
        job = store.corrections.record(read, changes, request)
        assert job
        return base, job

    return make


def test_a_refine_job_keeps_what_was_painted_and_says_how_it_went(
    store: Store, corrected: Any, tiny_clip: Any, resident: WorkerState
) -> None:
    mask = tiny_clip.red[5].copy()
    mask[8:14] = False
    _, job = corrected({5: mask})
    run(job.id)
    done = store.jobs.get(job.id)
    assert (done.state, done.error) == ("done", "")
    result = store.jobs.result(job.id)
    assert np.array_equal(result.tracks[0].mask(5), mask)
    assert result.tracks[0].frames[5].provenance == "person"
    assert result.tracks[0].caption == "something red"
    assert result.model_version == "scripted"
    assert done.notes.refinement[0].painted == (5,)
    assert store.deliveries.of_job(job.id) is not None
    first = done.notes.first_frames()
    assert 1 <= len(first) <= 3
    assert 5 not in first
    shown = shown_frames(result, done.notes, 6)
    assert set(first) <= set(shown)
    names = sorted(path.name for path in (resident.settings.media_dir / job.id).iterdir())
    assert names == [f"{index:06d}.jpg" for index in shown]


def test_a_prelabel_job_says_what_to_look_at_next(store: Store, corrected: Any, tiny_clip: Any) -> None:
    base, _ = corrected({5: tiny_clip.red[5]})
    notes = store.jobs.get(base.id).notes
    (review,) = notes.review
    assert (review.track, review.label, len(review.frames)) == ("t1", "track-1", 3)
    assert notes.doubt is not None
    assert 0 < notes.doubt < 1
    assert notes.warnings == ()


def test_a_refine_job_whose_annotation_is_gone_says_so(store: Store, corrected: Any, tiny_clip: Any) -> None:
    _, job = corrected({5: tiny_clip.red[5]})
    project = store.jobs.get(job.id).project_id
    assert project
    store.corrections.withdraw(project, 3)
    assert store.jobs.get(job.id).state == "cancelled"
    store.jobs.retry(job.id)
    run(job.id)
    assert "annotation this job refines has been deleted" in store.jobs.get(job.id).error


def test_a_refine_job_can_be_cancelled(
    store: Store, corrected: Any, tiny_clip: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, job = corrected({5: np.roll(tiny_clip.red[5], 20, axis=0)})
    progress = store.runs.progress

    def cancel_first(job_id: str, token: str, done: int, total: int) -> None:
        if done == 3:
            store.jobs.cancel(job.id)
        progress(job_id, token, done, total)

    monkeypatch.setattr(store.runs, "progress", cancel_first)
    run(job.id)
    assert store.jobs.get(job.id).state == "cancelled"


class Talking:
    """The scripted engine, with captions."""

    spec = EngineSpec(name="scripted", model_version="scripted", captions=True, compares=True)

    def __init__(self, engine: Any) -> None:
        self.segment = engine.segment

    def caption(self, clip: Clip, tracks: list[MaskTrack], progress: Progress | None = None) -> list[str]:
        return [f"seen in {len(track.present)} frames" for track in tracks]

    def agreement(self, clip: Clip, instruction: str, captions: list[str]) -> list[float]:
        return [-9.0 if caption == "seen in 12 frames" else 0.0 for caption in captions]

    def contradictions(self, clip: Clip, instruction: str, captions: list[str]) -> list[bool]:
        return [caption == "seen in 12 frames" for caption in captions]


def test_a_caption_that_a_person_wrote_comes_back_with_the_refined_track(
    store: Store, corrected: Any, tiny_clip: Any
) -> None:
    _, job = corrected({5: tiny_clip.blue[5]}, **{"track-1": "a crimson tile"})
    run(job.id)
    (track,) = store.jobs.result(job.id).tracks
    assert track.caption == "a crimson tile"


def test_tracks_that_a_person_drew_are_put_into_words_by_a_job_of_their_own(
    store: Store, resident: WorkerState, corrected: Any, tiny_clip: Any, scripted_engine: Any
) -> None:
    keep(WorkerState(resident.settings, store, Talking(scripted_engine)))
    base, job = corrected({5: tiny_clip.blue[5]}, "track-2", "drawn-track-2")
    assert store.jobs.result(base.id).tracks[0].caption == "seen in 12 frames"
    warning = TrackWarning(track="t1", text='you asked for "the red square"; this track reads: seen in 12 frames.')
    assert store.jobs.get(base.id).notes.warnings == (warning,)
    run(job.id)
    assert store.jobs.get(job.id).notes.warnings == (warning,)
    assert [track.caption for track in store.jobs.result(job.id).tracks] == ["seen in 12 frames", ""]
    (asked,) = [one for one in store.jobs.newest() if one.kind == "caption"]
    assert asked.params == {"job_id": job.id}
    run(asked.id)
    assert store.jobs.get(asked.id).error == ""
    told = store.jobs.result(asked.id).tracks
    assert told[1].caption.startswith("seen in")
    assert np.array_equal(told[1].mask(5), tiny_clip.blue[5])
    assert store.deliveries.of_job(asked.id) is not None


def test_a_track_that_a_person_ended_goes_as_far_as_there(clip: Clip, tiny_clip: Any, scripted_engine: Any) -> None:
    """A box was moved on frame 2, and the track ends with frame 6, whatever the propagators draw between them."""
    track = track_of(clip, list(tiny_clip.red))
    ended = painted(dict.fromkeys(range(7, 12)), {2, 6}, boxes={2: (26.0, 6.0, 20.0, 20.0)})
    (made,) = Refiner(scripted_engine, clip, "x").run([track], [ended]).tracks
    assert made.present == list(range(7))
    assert np.array_equal(made.mask(6), tiny_clip.red[6])
    assert made.frames[6].provenance == "model"
