"""Adoptions: refined tracks written into a person's annotation, together with its previous content."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import delete, select, update

from backend.store.database import Database
from backend.store.models import Adoption, new_id, now

Results = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class FrameChange:
    """What an adoption changes in one track on one frame.

    Attributes:
        label: the track's.
        index: 0-based frame.
        kind: "added" if the annotation showed nothing before, "removed" if it shows nothing now, else "changed".
        j: J between the masks before and after.
    """

    label: str
    index: int
    kind: str
    j: float


class Adoptions:
    """Reads and writes adoptions; each method is one transaction. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def begin(
        self,
        project_id: int,
        task_id: int,
        annotation_id: int,
        job_id: str,
        before: Results,
        written: Results,
        frame_index: Sequence[int],
        changes: Sequence[FrameChange],
    ) -> Adoption:
        """Records what is about to be written, so that the annotation's reader recognises it.

        Args:
            project_id: the store's own id; `task_id` and `annotation_id` are Label Studio's.
            before: the annotation's current results, kept for undo.
            written: its future results.
            frame_index: 0-based frames of the task's pictures.
        """
        adoption = Adoption(
            id=new_id(),
            project_id=project_id,
            task_id=task_id,
            annotation_id=annotation_id,
            job_id=job_id,
            before=_packed(before),
            before_digest=results_digest(before),
            written=_packed(written),
            written_digest=results_digest(written),
            frame_index=list(frame_index),
            changes=[asdict(change) for change in changes],
        )
        with self.database.write() as session:
            session.add(adoption)
        return adoption

    def drop(self, adoption_id: str) -> None:
        """It was not written after all."""
        with self.database.write() as session:
            session.execute(delete(Adoption).where(Adoption.id == adoption_id))

    def undone(self, adoption_id: str) -> None:
        """The earlier content has been restored."""
        with self.database.write() as session:
            session.execute(update(Adoption).where(Adoption.id == adoption_id).values(undone_at=now()))

    def of_annotation(self, project_id: int, annotation_id: int) -> list[Adoption]:
        """All adoptions into an annotation, newest first."""
        query = select(Adoption).where(Adoption.project_id == project_id, Adoption.annotation_id == annotation_id)
        with self.database.read() as session:
            return list(session.scalars(query.order_by(Adoption.made_at.desc())))

    def standing(self, project_id: int, annotation_id: int) -> Adoption | None:
        """The newest adoption into an annotation that has not been undone."""
        return newest(self.of_annotation(project_id, annotation_id))

    def of_job(self, job_id: str) -> Adoption | None:
        """The newest adoption of a job's tracks, including undone ones."""
        query = select(Adoption).where(Adoption.job_id == job_id).order_by(Adoption.made_at.desc()).limit(1)
        with self.database.read() as session:
            return session.scalars(query).first()

    def is_ours(self, project_id: int, annotation_id: int, results: Results) -> bool:
        """Whether trajseg itself wrote exactly these results into the annotation, by adopting or undoing."""
        held = self.of_annotation(project_id, annotation_id)
        digest = results_digest(results) if held else ""
        return any(digest == (one.written_digest if one.undone_at is None else one.before_digest) for one in held)


def newest(adoptions: Sequence[Adoption]) -> Adoption | None:
    """The first one that has not been undone; None if all have."""
    return next((one for one in adoptions if one.undone_at is None), None)


def before(adoption: Adoption) -> list[dict[str, Any]]:
    """The annotation's results before the adoption."""
    return _unpacked(adoption.before)


def written(adoption: Adoption) -> list[dict[str, Any]]:
    """The annotation's results as written."""
    return _unpacked(adoption.written)


def changes_of(adoption: Adoption) -> list[FrameChange]:
    """The changes, by label and frame."""
    return [FrameChange(**change) for change in adoption.changes]


def results_digest(results: Results) -> str:
    """A digest shared by lists of results with the same content; Label Studio may change ids and order."""
    said = [[item.get(key) for key in ("from_name", "item_index", "type", "value")] for item in results]
    texts = sorted(json.dumps(one, sort_keys=True) for one in said)
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _packed(results: Results) -> bytes:
    return zlib.compress(json.dumps(list(results)).encode())


def _unpacked(data: bytes) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = json.loads(zlib.decompress(data))
    return results
