"""Standing tracks: the current tracks of a task, after predictions, refinements and corrections.

A task's newest annotation decides. Its tracks are those of the job that refined it, once that job is done, else those
it started from, with the painted masks applied. A task without an annotation has the newest prediction for each of its
instructions, if possible not by a version that was rolled back. Export, statistics and training all read the state of
a video from here.

Trust of a frame (trajseg.tracks.trust):

* painted: a person painted this mask, or removed it, in the annotation or one of its ancestors;
* confirmed: a person saw a propagated frame in a later annotation and submitted it unchanged;
* propagated: a propagator carried a painted frame, a mark or a removal to this frame;
* accepted: a person saw the frame and submitted it unchanged;
* predicted: nobody has seen it, including frames between two that were seen.

If a person removed everything shown of a track, it is rejected: it shows nothing, and an instruction with only such
tracks means no object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import or_, select

from backend.store.kinds import KINDS
from backend.store.models import Annotation, Correction, Job
from backend.store.standing_track import (
    SeenFrames,
    StandingTrack,
    captioned,
    empty_track,
    expressions_of,
    provenance_trust,
    standing_track,
    unused_uid,
)
from trajseg.errors import InputError
from trajseg.tracks import MaskTrack, Result
from trajseg.tracks.labelled import Expression

if TYPE_CHECKING:
    from backend.store.corrections import PaintedTrack
    from backend.store.store import Store

# Only delivered results are seen by a person.
_SHOWN = (Job.state == "done", Job.kind.in_([kind.name for kind in KINDS.values() if kind.delivers]))


@dataclass(frozen=True)
class StandingTask:
    """The current state of a task.

    Args:
        video: the address or path, as in the task.
        annotation_id: Label Studio's id of the deciding annotation; None if nobody has annotated it.
        when, who: of that annotation, else when the prediction was done.
        model_version: that predicted what the person started from.
        tracks: including rejected ones.
        expressions: the instructions and the tracks they refer to.
        video_hashes: SHA-256 of the files that its jobs read at `video`, as far as known; several if it was replaced.
    """

    project_id: int
    task_id: int
    video: str
    width: int
    height: int
    fps: float
    frame_count: int
    when: datetime
    model_version: str
    tracks: tuple[StandingTrack, ...] = ()
    expressions: tuple[Expression, ...] = ()
    annotation_id: int | None = None
    who: str = ""
    video_hashes: frozenset[str] = frozenset()


class Standing:
    """Reads the current state of the tasks of a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def task_ids(self, project_id: int) -> list[int]:
        """Tasks of a project that have a finished prediction or an annotation, in order.

        Args:
            project_id: the store's own.
        """
        predicted = select(Job.task_id).where(
            Job.project_id == project_id, Job.task_id.is_not(None), Job.state == "done"
        )
        annotated = select(Annotation.task_id).where(
            Annotation.project_id == project_id, Annotation.withdrawn_at.is_(None)
        )
        with self.store.database.read() as session:
            found = {*session.scalars(predicted.distinct()), *session.scalars(annotated.distinct())}
        return sorted(task_id for task_id in found if task_id is not None)

    def tasks(self, project_id: int) -> Iterator[StandingTask | InputError]:
        """One task after the other; an error in place of an unreadable one. Holds one in memory at a time."""
        for task_id in self.task_ids(project_id):
            try:
                task = self.task(project_id, task_id)
            except InputError as error:
                yield InputError(f"Task {task_id}: {error.message}", error.remedy)
                continue
            if task is not None:
                yield task

    def task(self, project_id: int, task_id: int) -> StandingTask | None:
        """The current state of a task; None if it has none.

        Raises:
            InputError: an annotation does not fit its video, or its refinement is not done.
        """
        jobs = self._jobs(project_id, task_id)
        annotation = self.annotations(project_id, task_id).get((project_id, task_id))
        if annotation is not None:
            corrections = self.store.corrections.of_annotation(project_id, annotation.annotation_id)
            return self._annotated(annotation, corrections, jobs)
        there = [
            row.annotation_id
            for row in self.store.corrections.annotations(project_id, task_id)
            if row.withdrawn_at is None and not row.error
        ]
        return self._predicted(project_id, task_id, jobs, set(there))

    def annotations(
        self, project_id: int | None = None, task_id: int | None = None
    ) -> dict[tuple[int, int], Annotation]:
        """The deciding annotation of each task, by (store's id of the project, task): the newest that says something
        about tracks that people have seen.

        Args:
            project_id, task_id: select; None: all.
        """
        corrected = select(Correction.id).where(
            Correction.project_id == Annotation.project_id,
            Correction.annotation_id == Annotation.annotation_id,
            Correction.withdrawn_at.is_(None),
        )
        shown = select(Job.id).where(
            Job.id == Annotation.job_id,
            Job.project_id == Annotation.project_id,
            Job.task_id == Annotation.task_id,
            *_SHOWN,
        )
        query = (
            select(Annotation)
            .where(Annotation.withdrawn_at.is_(None), Annotation.error == "", or_(corrected.exists(), shown.exists()))
            .order_by(Annotation.when, Annotation.annotation_id)
        )
        if project_id is not None:
            query = query.where(Annotation.project_id == project_id)
        if task_id is not None:
            query = query.where(Annotation.task_id == task_id)
        with self.store.database.read() as session:
            return {(row.project_id, row.task_id): row for row in session.scalars(query)}

    def _jobs(self, project_id: int, task_id: int) -> dict[str, Job]:
        """Done jobs of a task that have tracks, oldest first."""
        query = select(Job).where(Job.project_id == project_id, Job.task_id == task_id, *_SHOWN)
        with self.store.database.read() as session:
            jobs = list(session.scalars(query.order_by(Job.finished_at, Job.id)))
        return {job.id: job for job in jobs}

    def _result(self, job: Job, jobs: Mapping[str, Job]) -> Result:
        """A job's tracks, with the captions of the newest job that captioned them."""
        result = self.store.jobs.result(job.id)
        describing = [held for held in jobs.values() if held.kind == "caption" and held.asked.earlier_job_id == job.id]
        if describing:
            captions = {track.uid: track.caption for track in self.store.jobs.result(describing[-1].id).tracks}
            for track in result.tracks:
                track.caption = track.caption or captions.get(track.uid, "")
        for track in result.tracks:
            track.instruction = track.instruction or job.instruction
        return result

    # Tasks that nobody has annotated

    def _predicted(
        self, project_id: int, task_id: int, jobs: Mapping[str, Job], annotations: set[int]
    ) -> StandingTask | None:
        newest: dict[str, Job] = {}
        for job in self.store.versions.weakest_first(project_id, jobs.values()):
            refined = self.store.corrections.annotation_behind(job.id)
            # The request of a withdrawn annotation no longer counts.
            if refined is None or refined in annotations:
                newest[job.instruction] = job
        if not newest:
            return None
        results = [(job, self._result(job, jobs)) for job in newest.values()]
        base_job, base = results[-1]
        tracks: list[StandingTrack] = []
        expressions = []
        for job, result in results:
            same_size = (result.width, result.height, result.frame_count) == (base.width, base.height, base.frame_count)
            if not same_size or len(_video_hashes(job, base_job)) > 1:
                # The task's video was replaced; results for the old one are about something else.
                continue
            uids = []
            for track in result.tracks:
                uid = unused_uid(track.uid, [known.track.uid for known in tracks])
                trust = tuple(provenance_trust(frame) for frame in track.frames)
                tracks.append(StandingTrack(replace(track, uid=uid), trust, job_id=job.id, track_uid=track.uid))
                uids.append(uid)
            if job.instruction:
                expressions.append(Expression(job.instruction, tuple(uids)))
        return StandingTask(
            project_id,
            task_id,
            base_job.video,
            base.width,
            base.height,
            base.fps,
            base.frame_count,
            base_job.finished_at or base_job.created_at,
            base_job.model_version,
            tuple(tracks),
            tuple(expressions),
            video_hashes=_video_hashes(base_job),
        )

    # Tasks with an annotation

    def _annotated(
        self, annotation: Annotation, corrections: Sequence[Correction], jobs: Mapping[str, Job]
    ) -> StandingTask:
        base_job = jobs.get(annotation.job_id or "")
        refine_job = jobs.get(annotation.refine_job_id or "")
        base = self._result(base_job, jobs) if base_job else None
        refined = self._result(refine_job, jobs) if refine_job else None
        result = refined or base
        source = refine_job or base_job
        if result is None or source is None:
            raise InputError(
                f"annotation {annotation.annotation_id} started without a prediction and is not refined yet.",
                "Wait for its refine job, or retry that job if it failed.",
            )
        painted = self.store.corrections.painted(annotation.project_id, annotation.annotation_id)
        by_label = {held.label: held for held in painted}
        before = self._began_with(base, base_job, painted, jobs)
        current = {track.label: track for track in refined.tracks} if refined else dict(before)
        seen = SeenFrames.of(corrections)
        written = self.store.corrections.captions(annotation.project_id, annotation.annotation_id)
        tracks: list[StandingTrack] = []
        for label in dict.fromkeys((*current, *by_label)):
            held, track = by_label.get(label), current.get(label)
            rejected = held is not None and held.rejected and (refined is None or track is None)
            if track is None:
                began = before.get(label)
                uid = began.uid if began is not None else held.track_uid if held is not None else label
                track = empty_track(
                    result, unused_uid(uid, [known.track.uid for known in tracks]), label, source.instruction
                )
            standing = standing_track(track, before.get(label), held, seen, rejected, (result.height, result.width))
            tracks.append(captioned(standing, before.get(label), written.get(label)))
        return StandingTask(
            annotation.project_id,
            annotation.task_id,
            source.video,
            result.width,
            result.height,
            result.fps,
            result.frame_count,
            annotation.when,
            (base_job or source).model_version,
            tuple(tracks),
            expressions_of(tracks, source.instruction),
            annotation.annotation_id,
            annotation.who,
            _video_hashes(base_job, refine_job),
        )

    def _began_with(
        self, base: Result | None, base_job: Job | None, painted: Sequence[PaintedTrack], jobs: Mapping[str, Job]
    ) -> dict[str, MaskTrack]:
        """The tracks that the person started from, by their labels then."""
        labels = {(held.job_id, held.track_uid): held.label for held in painted}
        found: dict[str, MaskTrack] = {}
        for track in base.tracks if base else []:
            label = labels.get((base_job.id if base_job else None, track.uid), track.label)
            found[label] = replace(track, label=label)
        for held in painted:
            # An accepted suggestion came from another job.
            job = jobs.get(held.job_id or "")
            if held.label in found or job is None:
                continue
            for track in self._result(job, jobs).tracks:
                if track.uid == held.track_uid:
                    uid = unused_uid(track.uid, [known.uid for known in found.values()])
                    found[held.label] = replace(track, uid=uid, label=held.label)
        return found


def _video_hashes(*jobs: Job | None) -> frozenset[str]:
    """The hashes of the files that jobs read, as far as known."""
    return frozenset(found for job in jobs if job is not None and (found := job.notes.video_hash))
