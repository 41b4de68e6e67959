"""Corrections: annotations as last read, and what people changed in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from backend.store.clock import database_now
from backend.store.database import Database
from backend.store.models import Annotation, Correction, Delivery, Job, now
from backend.store.params import RefineParams
from backend.store.request import JobRequest
from backend.store.rows import UNFINISHED
from trajseg.tracks.rle import Rle

VOUCHED = ("edited", "added", "removed")
"""Kinds of correction that a person vouches for; what is unchanged may never have been looked at."""
EXTENDED = "extended"
"""Kind of correction that only states that the object is in the frame: a range on the timeline was made longer."""
LONGEST_LINEAGE = 100
"""Longest chain of annotations derived from one another that is followed."""


@dataclass(frozen=True)
class Change:
    """What a person did to one track on one frame; see the table Correction for the fields."""

    label: str
    frame_index: int
    kind: str
    track_uid: str
    job_id: str | None = None
    model_version: str = ""
    rle: Rle | None = None
    box: tuple[float, float, float, float] | None = None

    @property
    def vouched(self) -> bool:
        """Whether a person added, changed or removed something there."""
        return self.kind in VOUCHED

    @property
    def is_carried(self) -> bool:
        """Whether it affects other frames, or requests a mask."""
        return self.vouched or self.kind == EXTENDED


@dataclass(frozen=True)
class ReadAnnotation:
    """One state of an annotation, as read from Label Studio; see the table Annotation for the fields."""

    project_id: int
    task_id: int
    annotation_id: int
    version: str
    when: datetime
    who: str = ""
    job_id: str | None = None
    lead_seconds: float | None = None
    captions: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass
class PaintedTrack:
    """What people vouch for in one track, across an annotation and its ancestors.

    Attributes:
        label: identifies the track to people.
        job_id, track_uid: of the predicted track; `job_id` is None for one that a person drew.
        masks: by 0-based frame: the mask left there, or None where it was removed.
        boxes: by 0-based frame: x, y, width, height in pixels, where only a box is known (box view).
        shown: frames on which the newest annotation shows it.
        extended: frames without mask or box on which it is visible according to a range of the timeline.
    """

    label: str
    track_uid: str
    job_id: str | None = None
    masks: dict[int, Rle | None] = field(default_factory=dict)
    boxes: dict[int, tuple[float, float, float, float]] = field(default_factory=dict)
    shown: set[int] = field(default_factory=set)
    extended: set[int] = field(default_factory=set)

    @property
    def vouched(self) -> bool:
        """Whether a person has painted, set or removed anything in it."""
        return bool(self.masks or self.boxes)

    @property
    def rejected(self) -> bool:
        """Whether a person removed every visible part of the track."""
        return not self.shown and self.vouched


@dataclass(frozen=True)
class ComparedFrames:
    """What people did with each frame they vouched for, across an annotation and its ancestors.

    Args:
        corrections: one per label and frame: the newest change, or that it was left unchanged.
        versions: by label, the model version whose prediction people started from; empty if there was none.
    """

    corrections: tuple[Correction, ...]
    versions: Mapping[str, str]


class Corrections:
    """Reads and writes everything about corrections; each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def tasks_of(self, project_id: int, annotation_ids: Collection[int]) -> list[int]:
        """Tasks of annotations that have been read before."""
        query = select(Annotation.task_id).where(
            Annotation.project_id == project_id, Annotation.annotation_id.in_(annotation_ids)
        )
        with self.database.read() as session:
            return list(dict.fromkeys(session.scalars(query)))

    def annotated_tasks(self, project_id: int, task_ids: Collection[int]) -> set[int]:
        """Those of the tasks that have an annotation that has not been withdrawn."""
        query = select(Annotation.task_id).where(
            Annotation.project_id == project_id,
            Annotation.task_id.in_(task_ids),
            Annotation.withdrawn_at.is_(None),
        )
        with self.database.read() as session:
            return set(session.scalars(query))

    def annotations(self, project_id: int, task_id: int) -> list[Annotation]:
        """The stored annotations of a task, including withdrawn ones."""
        query = select(Annotation).where(Annotation.project_id == project_id, Annotation.task_id == task_id)
        with self.database.read() as session:
            return list(session.scalars(query.order_by(Annotation.annotation_id)))

    def record(
        self, annotation: ReadAnnotation, changes: Sequence[Change], request: JobRequest | None = None
    ) -> Job | None:
        """Records one state of an annotation, replacing an older state, and the job that propagates it.

        Recording the same state again changes nothing. An unfinished or rejected job requested for an older state is
        cancelled, since it is about outdated corrections.

        Returns:
            The new job; None if none is needed or it was already requested.
        """
        with self.database.write() as session:
            row = _find(session, annotation.project_id, annotation.annotation_id, lock=True)
            if row is not None and row.version == annotation.version and row.withdrawn_at is None:
                return None
            if row is None:
                row = Annotation(project_id=annotation.project_id, annotation_id=annotation.annotation_id)
                session.add(row)
            for name in ("task_id", "version", "when", "who", "job_id", "lead_seconds", "error"):
                setattr(row, name, getattr(annotation, name))
            row.captions = dict(annotation.captions)
            row.read_at, row.withdrawn_at = now(), None
            _withdraw_corrections(session, row)
            session.add_all(_correction(annotation, change) for change in changes)
            older, row.refine_job_id = row.refine_job_id, None
            job = self._job(session, request) if request is not None else None
            row.refine_job_id = job.id if job else None
            if older != row.refine_job_id:
                _cancel(session, older)
            return job if job is not None and job.state == "queued" else None

    def annotation(self, project_id: int, annotation_id: int) -> Annotation | None:
        """The stored annotation; None if it is unknown or withdrawn."""
        with self.database.read() as session:
            row = _find(session, project_id, annotation_id)
        return row if row is not None and row.withdrawn_at is None else None

    def seen(self, project_id: int, annotation_id: int, version: str) -> None:
        """Records that this version of an annotation was written by trajseg and contains no correction."""
        known = (Annotation.project_id == project_id) & (Annotation.annotation_id == annotation_id)
        with self.database.write() as session:
            session.execute(update(Annotation).where(known).values(version=version[:64]))

    def withdraw(self, project_id: int, annotation_id: int) -> list[str]:
        """The annotation was deleted, and its corrections with it; returns the jobs cancelled for it."""
        with self.database.write() as session:
            row = _find(session, project_id, annotation_id, lock=True)
            if row is None or row.withdrawn_at is not None:
                return []
            row.withdrawn_at = now()
            _withdraw_corrections(session, row)
            return _cancel(session, row.refine_job_id)

    def of_annotation(self, project_id: int, annotation_id: int) -> list[Correction]:
        """The current corrections of an annotation, by label and frame."""
        with self.database.read() as session:
            return _standing(session, project_id, annotation_id)

    def of_task(self, project_id: int, task_id: int) -> list[Correction]:
        """The current corrections of all annotations of a task, by annotation, label and frame."""
        query = (
            select(Correction)
            .where(
                Correction.project_id == project_id,
                Correction.task_id == task_id,
                Correction.withdrawn_at.is_(None),
            )
            .order_by(Correction.annotation_id, Correction.label, Correction.frame_index)
        )
        with self.database.read() as session:
            return list(session.scalars(query))

    def annotation_behind(self, job_id: str) -> int | None:
        """Label Studio's id of the annotation whose corrections a job's tracks are based on; None if there is none."""
        with self.database.read() as session:
            return _annotation_behind(session, job_id)

    def painted(self, project_id: int, annotation_id: int) -> list[PaintedTrack]:
        """What people vouch for in each track of an annotation, by label.

        An annotation made from a refined prediction inherits the corrections of the refined annotation, except on
        frames that were changed again.
        """
        with self.database.read() as session:
            lineage = _lineage(session, project_id, annotation_id)
            rows = [_standing(session, project_id, one) for one in lineage]
        tracks: dict[str, PaintedTrack] = {}
        for correction in rows[-1]:
            track = tracks.setdefault(
                correction.label, PaintedTrack(correction.label, correction.track_uid, correction.job_id)
            )
            if correction.kind not in ("removed", EXTENDED):
                track.shown.add(correction.frame_index)
        for correction in (one for standing in rows for one in standing):
            if correction.kind in (*VOUCHED, EXTENDED) and correction.label in tracks:
                _put(tracks[correction.label], correction)
        return list(tracks.values())

    def compared(self, project_id: int, annotation_id: int) -> ComparedFrames:
        """What people did in an annotation and its ancestors, including tracks that are gone from it."""
        with self.database.read() as session:
            lineage = _lineage(session, project_id, annotation_id)
            rows = [one for number in lineage for one in _standing(session, project_id, number)]
        newest: dict[tuple[str, int], Correction] = {}
        versions: dict[str, str] = {}
        for row in rows:
            versions.setdefault(row.label, row.model_version)
            if row.kind == EXTENDED:
                # It has neither mask nor box.
                continue
            known = newest.get((row.label, row.frame_index))
            if known is None or row.kind in VOUCHED or known.kind not in VOUCHED:
                newest[row.label, row.frame_index] = row
        return ComparedFrames(tuple(newest.values()), versions)

    def captions(self, project_id: int, annotation_id: int) -> dict[str, str]:
        """Captions that people wrote, by label, in an annotation and its ancestors; an empty one was removed."""
        with self.database.read() as session:
            rows = [_find(session, project_id, one) for one in _lineage(session, project_id, annotation_id)]
        return {label: text for row in rows if row is not None for label, text in row.captions.items()}

    def count(self) -> dict[str, int]:
        """The number of current corrections, by kind."""
        query = select(Correction.kind, func.count()).where(Correction.withdrawn_at.is_(None)).group_by(Correction.kind)
        with self.database.read() as session:
            return {row[0]: row[1] for row in session.execute(query)}

    def _job(self, session: Session, request: JobRequest) -> Job:
        """The job of a request; a cancelled or failed one is queued again, a done one is delivered again."""
        insert = sqlite.insert if self.database.is_sqlite else postgresql.insert
        row = request.row()
        session.execute(insert(Job).on_conflict_do_nothing(index_elements=["request_key"]), [row])
        job = session.scalars(select(Job).where(Job.request_key == row["request_key"])).one()
        if job.state in ("cancelled", "failed"):
            job.reset()
        elif job.state == "done":
            again = update(Delivery).where(Delivery.job_id == job.id)
            session.execute(again.values(state="pending", attempts=0, next_attempt_at=database_now(session)))
        return job


def _find(session: Session, project_id: int, annotation_id: int, lock: bool = False) -> Annotation | None:
    query = select(Annotation).where(Annotation.project_id == project_id, Annotation.annotation_id == annotation_id)
    return session.scalars(query.with_for_update() if lock else query).one_or_none()


def _correction(annotation: ReadAnnotation, change: Change) -> Correction:
    return Correction(
        annotation_id=annotation.annotation_id,
        task_id=annotation.task_id,
        project_id=annotation.project_id,
        job_id=change.job_id,
        track_uid=change.track_uid,
        label=change.label,
        frame_index=change.frame_index,
        kind=change.kind,
        rle=dict(change.rle) if change.rle is not None else None,
        box=list(change.box) if change.box is not None else None,
        who=annotation.who,
        when=annotation.when,
        model_version=change.model_version,
    )


def _withdraw_corrections(session: Session, row: Annotation) -> None:
    session.execute(
        update(Correction)
        .where(
            Correction.project_id == row.project_id,
            Correction.annotation_id == row.annotation_id,
            Correction.withdrawn_at.is_(None),
        )
        .values(withdrawn_at=now())
    )


def _cancel(session: Session, job_id: str | None) -> list[str]:
    if job_id is None:
        return []
    # A rejected job says that the older state could not be read.
    cancel = update(Job).where(Job.id == job_id, Job.state.in_([*UNFINISHED, "rejected"]))
    cancelled: Any = session.execute(cancel.values(state="cancelled", finished_at=now(), eta_seconds=None))
    return [job_id] if cancelled.rowcount else []


def _standing(session: Session, project_id: int, annotation_id: int) -> list[Correction]:
    query = (
        select(Correction)
        .where(
            Correction.project_id == project_id,
            Correction.annotation_id == annotation_id,
            Correction.withdrawn_at.is_(None),
        )
        .order_by(Correction.label, Correction.frame_index)
    )
    return list(session.scalars(query))


def _lineage(session: Session, project_id: int, annotation_id: int) -> list[int]:
    """The annotation and its ancestors (those whose refined predictions it came from), oldest first."""
    found = [annotation_id]
    while len(found) < LONGEST_LINEAGE:
        row = _find(session, project_id, found[-1])
        before = _annotation_behind(session, row.job_id) if row is not None else None
        if before is None or before in found:
            break
        found.append(before)
    return found[::-1]


def _annotation_behind(session: Session, job_id: str | None) -> int | None:
    """The annotation that a job refined; for a job that only added captions or marks, that of the job before it."""
    for _ in range(LONGEST_LINEAGE):
        job = session.get(Job, job_id) if job_id else None
        if job is None:
            return None
        asked = job.asked
        if isinstance(asked, RefineParams) and asked.annotation_id is not None:
            return asked.annotation_id
        job_id = asked.earlier_job_id
    return None


def _put(track: PaintedTrack, correction: Correction) -> None:
    """A later change replaces an earlier one."""
    track.masks.pop(correction.frame_index, None)
    track.boxes.pop(correction.frame_index, None)
    track.extended.discard(correction.frame_index)
    if correction.kind == EXTENDED:
        track.extended.add(correction.frame_index)
    elif correction.box is not None:
        x, y, width, height = correction.box
        track.boxes[correction.frame_index] = (x, y, width, height)
    else:
        rle: Any = correction.rle
        track.masks[correction.frame_index] = rle
