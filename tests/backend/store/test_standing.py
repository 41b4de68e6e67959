"""The current state of a task: predictions, corrections, and the trust of each frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from backend.store import Change, JobRequest, ReadAnnotation, Store
from backend.store.standing import Standing, StandingTask
from backend.store.standing_track import StandingTrack
from trajseg.errors import InputError
from trajseg.tracks import MaskTrack, Result, rle
from trajseg.tracks.trust import Trust

HEIGHT, WIDTH, FRAMES = 24, 32, 6
TIMES = [index / 10 for index in range(FRAMES)]
MONDAY = datetime(2026, 3, 2, 9, tzinfo=UTC)
PREDICTED, ACCEPTED, PROPAGATED, PAINTED = Trust.PREDICTED, Trust.ACCEPTED, Trust.PROPAGATED, Trust.PAINTED


def mask(left: int) -> np.ndarray:
    drawn = np.zeros((HEIGHT, WIDTH), bool)
    drawn[4:12, left : left + 8] = True
    return drawn


def track(number: int, lefts: Sequence[int | None], provenance: Sequence[str] = ()) -> MaskTrack:
    masks = [None if left is None else mask(left) for left in lefts]
    made = MaskTrack.from_masks(f"t{number}", masks, TIMES, [0.8] * FRAMES, label=f"track-{number}")
    for frame, source in zip(made.frames, provenance, strict=False):
        frame.provenance = source
    return made


def result(tracks: Sequence[MaskTrack], instruction: str = "the square") -> Result:
    return Result("clip.mp4", 10.0, WIDTH, HEIGHT, FRAMES, instruction, "[SEG]", "tiny", list(tracks))


class World:
    """A store with one project and one task."""

    def __init__(self, store: Store) -> None:
        self.store, self.standing = store, Standing(store)
        self.project = store.projects.upsert(7, "http://studio", "<View/>").id

    def done(self, kind: str, tracks: Sequence[MaskTrack], instruction: str = "the square", **params: Any) -> str:
        job, _ = self.store.jobs.add(
            kind, self.project, 1, "clip.mp4", instruction, "prelabel", params, subject=f"{kind} {params}"
        )
        return self.finish(job.id, tracks, instruction)

    def finish(self, job_id: str, tracks: Sequence[MaskTrack], instruction: str = "the square") -> str:
        token = self.store.runs.start(job_id)
        assert token is not None
        self.store.runs.finish(job_id, token, result(tracks, instruction))
        return job_id

    def annotate(
        self,
        number: int,
        job_id: str | None,
        changes: Sequence[Change],
        refine: bool = False,
        hours: int = 0,
        captions: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        when = MONDAY + timedelta(hours=hours)
        read = ReadAnnotation(self.project, 1, number, f"v{hours}", when, "ada@b.org", job_id, captions=captions)
        params = {"annotation_id": number, "base_job_id": job_id}
        request = JobRequest("refine", self.project, 1, "clip.mp4", "the square", "interactive", params, "tiny")
        request = replace(request, subject=f"annotation {number} {hours}")
        job = self.store.corrections.record(read, changes, request if refine else None)
        return job.id if job else ""

    def task(self) -> StandingTask:
        task = self.standing.task(self.project, 1)
        assert task is not None
        return task

    def only(self) -> StandingTrack:
        (held,) = self.task().tracks
        return held


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


def unchanged(job_id: str, index: int, left: int, number: int = 1) -> Change:
    return Change(f"track-{number}", index, "unchanged", f"t{number}", job_id, rle=rle.encode(mask(left)))


def edited(job_id: str, index: int, left: int, number: int = 1) -> Change:
    return Change(f"track-{number}", index, "edited", f"t{number}", job_id, rle=rle.encode(mask(left)))


def removed(job_id: str, index: int, number: int = 1) -> Change:
    return Change(f"track-{number}", index, "removed", f"t{number}", job_id)


def test_what_a_rolled_back_version_predicted_counts_only_where_there_is_nothing_else(world: World) -> None:
    world.done("prelabel", [track(1, [0] * FRAMES)])
    version = world.store.versions.of_job(world.project, "tiny", "a")
    world.store.versions.decide(version.id, True, "Promoted.", "models/1", {})

    def predicted(instruction: str) -> None:
        job, _ = world.store.jobs.add(
            "prelabel", world.project, 1, "clip.mp4", instruction, "prelabel", model_version=version.name
        )
        made = replace(result([track(1, [10] * FRAMES)], instruction), model_version=version.name)
        world.store.runs.finish(job.id, world.store.runs.start(job.id) or "", made)

    def lefts() -> list[int]:
        return [int(np.flatnonzero(held.track.mask(0).any(axis=0))[0]) for held in world.task().tracks]

    predicted("the square")
    assert (world.task().model_version, lefts()) == (version.name, [10])
    world.store.versions.rollback(world.project, "tiny")
    assert (world.task().model_version, lefts()) == ("tiny", [0])
    predicted("the circle")
    assert sorted(lefts()) == [0, 10]
    world.store.versions.promote(world.project, 1)
    assert (world.task().model_version, lefts()) == (version.name, [10, 10])


def test_without_anything_there_are_no_tracks(world: World) -> None:
    assert world.standing.task_ids(world.project) == []
    assert world.standing.task(world.project, 1) is None


def test_without_an_annotation_the_newest_prediction_of_each_instruction_counts(world: World) -> None:
    world.done("prelabel", [track(1, [9] * FRAMES)])
    world.done(
        "refine",
        [track(1, [2] * FRAMES)],
        marks=[{"label": "track-1", "index": 0, "box": [1, 1, 4, 4], "point": False}],
    )
    world.done("prelabel", [track(1, [20] * FRAMES)], "the star")
    world.done("prelabel", [], "the ring")
    task = world.task()
    assert [(held.track.uid, held.verdict) for held in task.tracks] == [("t1", "predicted"), ("t1-2", "predicted")]
    np.testing.assert_array_equal(task.tracks[0].track.mask(3), mask(2))
    said = {expression.text: (expression.uids, expression.trust) for expression in task.expressions}
    assert said == {
        "the square": (("t1",), PREDICTED),
        "the star": (("t1-2",), PREDICTED),
        "the ring": ((), PREDICTED),
    }
    assert task.annotation_id is None


def test_frames_submitted_unchanged_are_accepted_and_those_between_are_predicted(world: World) -> None:
    job = world.done("prelabel", [track(1, [2, 2, 2, 2, 2, None])])
    seen = [unchanged(job, 0, 2), unchanged(job, 3, 2)]
    # The picture of frame 5 was shown as well: another track stands on it.
    other = Change("track-2", 5, "added", "drawn-track-2", None, rle=rle.encode(mask(20)))
    world.annotate(11, job, seen)
    assert world.only().verdict == "accepted"
    assert world.only().trust == (ACCEPTED, PREDICTED, PREDICTED, ACCEPTED, PREDICTED, PREDICTED)
    assert world.task().expressions[0].trust == ACCEPTED
    world.annotate(11, job, [*seen, other], hours=1)
    first, second = world.task().tracks
    assert first.trust[5] == ACCEPTED
    assert (second.track.label, second.verdict) == ("track-2", "drawn")
    assert second.trust == (ACCEPTED, Trust.UNKNOWN, Trust.UNKNOWN, ACCEPTED, Trust.UNKNOWN, PAINTED)


def test_painted_frames_count_at_once_and_the_rest_after_refinement(world: World) -> None:
    job = world.done("prelabel", [track(1, [2] * FRAMES)])
    changes = [edited(job, 1, 10), unchanged(job, 5, 2)]
    refine = world.annotate(11, job, changes, refine=True)
    held = world.only()
    assert held.trust == (PREDICTED, PAINTED, PREDICTED, PREDICTED, PREDICTED, ACCEPTED)
    np.testing.assert_array_equal(held.track.mask(1), mask(10))
    np.testing.assert_array_equal(held.track.mask(2), mask(2))
    world.finish(refine, [track(1, [9, 10, 11, 2, 2, 2], ["flow", "person", "flow"])])
    held = world.only()
    assert held.trust == (PROPAGATED, PAINTED, PROPAGATED, PREDICTED, PREDICTED, ACCEPTED)
    np.testing.assert_array_equal(held.track.mask(2), mask(11))
    assert (held.verdict, held.job_id, held.track_uid) == ("corrected", job, "t1")
    assert world.task().who == "ada@b.org"


def test_second_annotation_inherits_painted_frames(world: World) -> None:
    job = world.done("prelabel", [track(1, [2] * FRAMES)])
    refine = world.annotate(11, job, [edited(job, 1, 10)], refine=True)
    world.finish(refine, [track(1, [9, 10, 11, 2, 2, 2], ["flow", "person", "flow"])])
    seen = [unchanged(refine, 1, 10), unchanged(refine, 2, 11)]
    again = world.annotate(12, refine, [edited(refine, 4, 15), *seen], refine=True, hours=1)
    expected = (PROPAGATED, PAINTED, Trust.CONFIRMED, PREDICTED, PAINTED, PREDICTED)
    assert world.only().trust == expected
    world.finish(again, [track(1, [9, 10, 11, 13, 15, 16], ["flow", "person", "flow", "flow", "person", "flow"])])
    assert world.only().trust == (PROPAGATED, PAINTED, Trust.CONFIRMED, PROPAGATED, PAINTED, PROPAGATED)


def test_rejected_track_shows_nothing_and_its_instruction_refers_to_no_object(world: World) -> None:
    job = world.done("prelabel", [track(1, [2] * FRAMES), track(2, [20] * FRAMES)])
    refine = world.annotate(11, job, [removed(job, 0), removed(job, 3), unchanged(job, 0, 20, number=2)], refine=True)
    for finished in (False, True):
        if finished:
            world.finish(refine, [track(2, [20] * FRAMES)])
        tracks = {held.track.label: held for held in world.task().tracks}
        assert tracks["track-1"].verdict == "rejected"
        assert tracks["track-1"].track.present == []
        assert tracks["track-1"].trust == (PAINTED, PROPAGATED, PROPAGATED, PAINTED, PROPAGATED, PROPAGATED)
        assert tracks["track-2"].verdict == "accepted"
        assert [expression.uids for expression in world.task().expressions] == [("t2",)]
    world.annotate(11, job, [removed(job, 0), removed(job, 0, number=2)], hours=1)
    (said,) = world.task().expressions
    assert (said.text, said.uids, said.trust) == ("the square", (), PAINTED)


def test_accepted_empty_prediction_is_an_answer(world: World) -> None:
    job = world.done("prelabel", [])
    world.annotate(11, job, [])
    (said,) = world.task().expressions
    assert (said.uids, said.trust) == ((), ACCEPTED)


def test_frames_cleared_by_a_removal_are_propagated(world: World) -> None:
    job = world.done("prelabel", [track(1, [2] * FRAMES)])
    refine = world.annotate(11, job, [removed(job, 5), unchanged(job, 0, 2)], refine=True)
    world.finish(refine, [track(1, [2, 2, 2, None, None, None], ["", "", "", "", "", "person"])])
    assert world.only().trust == (ACCEPTED, PREDICTED, PREDICTED, PROPAGATED, PROPAGATED, PAINTED)


def test_newest_annotation_decides_unless_withdrawn(world: World) -> None:
    job = world.done("prelabel", [track(1, [2] * FRAMES)])
    refine = world.annotate(12, job, [edited(job, 0, 5)], refine=True)
    world.finish(refine, [track(1, [5] * FRAMES, ["person", *["flow"] * 5])])
    world.annotate(11, job, [edited(job, 0, 9)], hours=1)
    np.testing.assert_array_equal(world.only().track.mask(0), mask(9))
    world.store.corrections.withdraw(world.project, 11)
    np.testing.assert_array_equal(world.only().track.mask(0), mask(5))
    world.store.corrections.withdraw(world.project, 12)
    # Nor does the instruction of the withdrawn annotation.
    np.testing.assert_array_equal(world.only().track.mask(0), mask(2))
    assert world.only().verdict == "predicted"


def test_changed_labels_and_suggestions_from_other_jobs_are_followed(world: World) -> None:
    job = world.done("prelabel", [track(1, [2] * FRAMES)])
    star = track(1, [20] * FRAMES)
    star.caption = "a star that stands still"
    suggested = world.done("prelabel", [star], "the star")
    # Another sentence was typed, and its suggestions were rejected.
    world.done("prelabel", [track(1, [30] * FRAMES)], "the comet")
    changes = [
        Change("track-4", 0, "unchanged", "t1", job, rle=rle.encode(mask(2))),
        Change("track-5", 0, "unchanged", "t1", suggested, rle=rle.encode(mask(20))),
    ]
    world.annotate(11, job, changes)
    task = world.task()
    assert [(held.track.uid, held.track.label) for held in task.tracks] == [("t1", "track-4"), ("t1-2", "track-5")]
    assert {said.text: said.uids for said in task.expressions} == {"the square": ("t1",), "the star": ("t1-2",)}
    assert task.tracks[1].track.caption == "a star that stands still"


def test_captions_of_a_later_job_belong_to_the_refined_tracks(world: World) -> None:
    job = world.done("prelabel", [track(1, [2] * FRAMES)])
    refine = world.annotate(11, job, [edited(job, 0, 5)], refine=True)
    world.finish(refine, [track(1, [5] * FRAMES, ["person"])])
    world.done("caption", [replace(track(1, [5] * FRAMES), caption="a red square")], job_id=refine)
    assert world.only().track.caption == "a red square"


def test_a_moved_box_leaves_its_frame_unknown_until_it_is_refined(world: World) -> None:
    job = world.done("prelabel", [track(1, [2] * FRAMES)])
    moved = Change("track-1", 2, "edited", "t1", job, box=(10.0, 4.0, 8.0, 8.0))
    kept = Change("track-1", 0, "unchanged", "t1", job, box=(2.0, 4.0, 8.0, 8.0))
    refine = world.annotate(11, job, [kept, moved], refine=True)
    assert world.only().trust[:3] == (ACCEPTED, PREDICTED, Trust.UNKNOWN)
    world.finish(refine, [track(1, [2, 5, 10, 10, 10, 10], ["", "flow", "hint", "flow", "flow", "flow"])])
    assert world.only().trust[:3] == (ACCEPTED, PROPAGATED, PROPAGATED)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Change("track-1", 9, "edited", "t1", None, rle=rle.encode(mask(2))), "frame 9"),
        (Change("track-1", 0, "edited", "t1", None, rle=rle.encode(np.ones((4, 4), bool))), "size"),
    ],
)
def test_changes_that_do_not_fit_the_video_are_errors_of_that_task_only(
    world: World, change: Change, said: str
) -> None:
    job = world.done("prelabel", [track(1, [2] * FRAMES)])
    world.annotate(11, job, [replace(change, job_id=job)])
    (told,) = world.standing.tasks(world.project)
    assert isinstance(told, InputError)
    assert "Task 1" in told.message
    assert said in told.message


def test_a_drawing_without_a_prediction_waits_for_its_refinement(world: World) -> None:
    drawn = Change("track-1", 0, "added", "drawn-track-1", None, rle=rle.encode(mask(2)))
    refine = world.annotate(11, None, [drawn], refine=True)
    with pytest.raises(InputError, match="not refined yet"):
        world.task()
    world.finish(refine, [replace(track(1, [2] * FRAMES, ["person", *["flow"] * 5]), uid="drawn-track-1")])
    assert world.only().verdict == "drawn"
    assert world.only().trust == (PAINTED, *[PROPAGATED] * 5)


def test_painted_frames_count_if_the_next_annotation_started_from_captions(world: World) -> None:
    job = world.done("prelabel", [track(1, [2] * FRAMES)])
    refine = world.annotate(11, job, [edited(job, 1, 10)], refine=True)
    refined = track(1, [9, 10, 11, 2, 2, 2], ["flow", "person", "flow"])
    world.finish(refine, [refined])
    captions = world.done("caption", [replace(refined, caption="a red square")], job_id=refine)
    world.annotate(12, captions, [edited(captions, 4, 15)], hours=1)
    (painted,) = world.store.corrections.painted(world.project, 12)
    assert sorted(painted.masks) == [1, 4]
    assert world.only().trust[:2] == (PROPAGATED, PAINTED)


def captioned(number: int, caption: str, provenance: Sequence[str] = ()) -> MaskTrack:
    return replace(track(number, [2] * FRAMES, provenance), caption=caption)


def test_caption_is_the_written_one_or_the_one_submitted_unchanged(world: World) -> None:
    job = world.done("prelabel", [captioned(1, "a red square"), captioned(2, "a ring")])
    assert {held.caption_trust for held in world.task().tracks} == {PREDICTED}
    changes = [unchanged(job, 0, 2), unchanged(job, 0, 2, number=2)]
    world.annotate(11, job, changes, captions={"track-2": "a blue ring"})
    said = {held.track.label: (held.track.caption, held.caption_trust) for held in world.task().tracks}
    assert said == {"track-1": ("a red square", ACCEPTED), "track-2": ("a blue ring", PAINTED)}


def test_a_written_caption_is_kept_when_the_track_is_refined_and_annotated_again(world: World) -> None:
    job = world.done("prelabel", [captioned(1, "a ring")])
    refine = world.annotate(11, job, [edited(job, 1, 10)], refine=True, captions={"track-1": "a square"})
    world.finish(refine, [captioned(1, "an egg", ["flow", "person"])])
    assert (world.only().track.caption, world.only().caption_trust) == ("a square", PAINTED)
    world.annotate(12, refine, [unchanged(refine, 1, 10)], hours=1)
    assert (world.only().track.caption, world.only().caption_trust) == ("a square", PAINTED)
    world.annotate(12, refine, [unchanged(refine, 1, 10)], hours=2, captions={"track-1": ""})
    assert (world.only().track.caption, world.only().caption_trust) == ("", PAINTED)


def test_caption_from_the_refinement_is_only_predicted(world: World) -> None:
    job = world.done("prelabel", [captioned(1, "")])
    refine = world.annotate(11, job, [edited(job, 1, 10)], refine=True)
    world.finish(refine, [captioned(1, "an egg", ["flow", "person"])])
    assert (world.only().track.caption, world.only().caption_trust) == ("an egg", PREDICTED)
