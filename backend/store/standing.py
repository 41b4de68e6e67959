"""Standing tracks: the current tracks of a task, after predictions, refinements and corrections.

A task's newest annotation decides. Its tracks are those of the job that refined it, once that job is done, else those
it started from, with the painted masks applied. A task without an annotation has the newest prediction for each of its
instructions. Export, statistics and training all read the state of a video from here.

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

from backend.store.corrections import EXTENDED
from backend.store.kinds import KINDS
from backend.store.models import Annotation, Correction, Job
from trajseg.errors import InputError
from trajseg.tracks import MaskTrack, Result, TrackFrame, rle
from trajseg.tracks.labelled import Expression
from trajseg.tracks.trust import Trust

if TYPE_CHECKING:
    from backend.store.corrections import PaintedTrack
    from backend.store.store import Store

# Only delivered results are seen by a person.
_SHOWN = (Job.state == "done", Job.kind.in_([kind.name for kind in KINDS.values() if kind.delivers]))


@dataclass(frozen=True)
class StandingTrack:
    """The current state of one track of a task.

    Args:
        track: its uid is unique in the task; persons know it by its label.
        trust: one per frame.
        rejected: a person removed everything shown of it.
        caption_trust: painted if a person wrote the caption, accepted if someone submitted it unchanged.
        job_id, track_uid: of the prediction it came from; `job_id` is None for a track drawn by a person.
    """

    track: MaskTrack
    trust: tuple[Trust, ...]
    rejected: bool = False
    caption_trust: Trust = Trust.PREDICTED
    job_id: str | None = None
    track_uid: str = ""

    @property
    def verdict(self) -> str:
        """What persons made of it: rejected, drawn, corrected, accepted, or predicted if nobody has seen it."""
        if self.rejected:
            return "rejected"
        if any(trust >= Trust.PROPAGATED for trust in self.trust):
            return "corrected" if self.job_id else "drawn"
        return "accepted" if Trust.ACCEPTED in self.trust else "predicted"


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
        for job in jobs.values():
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
            if (result.width, result.height, result.frame_count) != (base.width, base.height, base.frame_count):
                # The task's video was replaced; results for the old one are about something else.
                continue
            uids = []
            for track in result.tracks:
                uid = _unused(track.uid, [known.track.uid for known in tracks])
                trust = tuple(_provenance_trust(frame) for frame in track.frames)
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
        seen = _Seen.of(corrections)
        written = self.store.corrections.captions(annotation.project_id, annotation.annotation_id)
        tracks: list[StandingTrack] = []
        for label in dict.fromkeys((*current, *by_label)):
            held, track = by_label.get(label), current.get(label)
            rejected = held is not None and held.rejected and (refined is None or track is None)
            if track is None:
                began = before.get(label)
                uid = began.uid if began is not None else held.track_uid if held is not None else label
                track = _empty(result, _unused(uid, [known.track.uid for known in tracks]), label, source.instruction)
            standing = _track(track, before.get(label), held, seen, rejected, (result.height, result.width))
            tracks.append(_captioned(standing, before.get(label), written.get(label)))
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
            _expressions(tracks, source.instruction),
            annotation.annotation_id,
            annotation.who,
        )

    def _began_with(
        self, base: Result | None, base_job: Job | None, painted: Sequence[PaintedTrack], jobs: Mapping[str, Job]
    ) -> dict[str, MaskTrack]:
        """The tracks that the person started from, by the label that they had."""
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
                    uid = _unused(track.uid, [known.uid for known in found.values()])
                    found[held.label] = replace(track, uid=uid, label=held.label)
        return found


@dataclass(frozen=True)
class _Seen:
    """What a person saw: pairs of label and frame submitted unchanged, and frames whose whole picture was shown."""

    unchanged: frozenset[tuple[str, int]]
    pictures: frozenset[int]

    @classmethod
    def of(cls, corrections: Sequence[Correction]) -> _Seen:
        corrections = [row for row in corrections if row.kind != EXTENDED]
        unchanged = frozenset((row.label, row.frame_index) for row in corrections if row.kind == "unchanged")
        # In the box view a frame is a key frame of one track only.
        pictures = frozenset(row.frame_index for row in corrections if row.box is None)
        return cls(unchanged, pictures if all(row.box is None for row in corrections) else frozenset())


def _track(
    track: MaskTrack,
    before: MaskTrack | None,
    painted: PaintedTrack | None,
    seen: _Seen,
    rejected: bool,
    size: tuple[int, int],
) -> StandingTrack:
    """A track of an annotated task with the painted masks applied."""
    frames, trust = list(track.frames), []
    masks = painted.masks if painted else {}
    boxes = painted.boxes if painted else {}
    outside = [index for index in (*masks, *boxes) if not 0 <= index < len(frames)]
    if outside:
        raise InputError(
            f"track {track.label} is painted on frame {outside[0]}, but its video has {len(frames)} frames.",
            "The task's video has changed: request a new prediction.",
        )
    for index, frame in enumerate(track.frames):
        # A rejected track is one decision for all frames.
        level = max(_provenance_trust(frame), Trust.PROPAGATED if rejected else Trust.UNKNOWN)
        if index in masks:
            code = masks[index]
            checked = rle.checked(code, *size) if code is not None else None
            frames[index], level = replace(frame, rle=checked, score=1.0, provenance="person"), Trust.PAINTED
        elif rejected:
            frames[index] = replace(frame, rle=None)
        elif before is not None and frame.rle != before.frames[index].rle:
            # Changed since a person saw it.
            level = max(level, Trust.PROPAGATED)
        elif index in boxes and level < Trust.PROPAGATED:
            # The box was moved, and the mask has not been recomputed yet.
            level = Trust.UNKNOWN
        elif (track.label, index) in seen.unchanged or (frame.rle is None and index in seen.pictures):
            level = Trust.CONFIRMED if level >= Trust.PROPAGATED else max(level, Trust.ACCEPTED)
        elif before is None and painted is not None and level < Trust.PROPAGATED and not track.present:
            level = Trust.UNKNOWN
        trust.append(level)
    job_id = painted.job_id if painted else None
    uid = painted.track_uid if painted else track.uid
    shown = [frame.score for frame in frames if frame.rle is not None]
    score = sum(shown) / len(shown) if shown else 0.0
    return StandingTrack(
        replace(track, frames=frames, score=score), tuple(trust), rejected, job_id=job_id, track_uid=uid
    )


def _captioned(standing: StandingTrack, before: MaskTrack | None, written: str | None) -> StandingTrack:
    """The same track with the caption that a person wrote, if any ("" removed it)."""
    if written is not None:
        return replace(standing, track=replace(standing.track, caption=written), caption_trust=Trust.PAINTED)
    seen = before is not None and before.caption and before.caption == standing.track.caption
    return replace(standing, caption_trust=Trust.ACCEPTED) if seen else standing


def _expressions(tracks: Sequence[StandingTrack], instruction: str) -> tuple[Expression, ...]:
    """Instructions with the tracks they refer to; a person has seen them all."""
    meant: dict[str, list[StandingTrack]] = {instruction: []} if instruction else {}
    for held in tracks:
        if held.track.instruction:
            meant.setdefault(held.track.instruction, []).append(held)
    expressions = []
    for text, group in meant.items():
        uids = tuple(held.track.uid for held in group if not held.rejected and held.track.present)
        corrected = any(held.verdict in ("rejected", "corrected", "drawn") for held in group)
        expressions.append(Expression(text, uids, Trust.PAINTED if corrected else Trust.ACCEPTED))
    return tuple(expressions)


def _provenance_trust(frame: TrackFrame) -> Trust:
    if frame.provenance in ("", "model"):
        return Trust.PREDICTED
    return Trust.PAINTED if frame.provenance == "person" else Trust.PROPAGATED


def _empty(result: Result, uid: str, label: str, instruction: str) -> MaskTrack:
    times = [frame.time for frame in result.tracks[0].frames] if result.tracks else None
    times = times or [index / result.fps for index in range(result.frame_count)]
    absent: list[None] = [None] * result.frame_count
    return MaskTrack.from_masks(
        uid, absent, times, [0.0] * len(times), label=label, instruction=instruction, provenance="person"
    )


def _unused(uid: str, taken: Sequence[str]) -> str:
    number, fresh = 2, uid
    while fresh in taken:
        fresh, number = f"{uid}-{number}", number + 1
    return fresh
