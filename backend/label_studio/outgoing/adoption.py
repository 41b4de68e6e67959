"""Adoption: writes refined tracks into the annotation they were refined from, with undo.

Only frames that nobody has corrected change; painted masks and boxes set by a person are kept. An annotation is
written only if it is unchanged since it was read, and never while someone has a draft of it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.label_studio.client import LabelStudioClient
from backend.label_studio.outgoing import views
from backend.label_studio.outgoing.merging import merged_boxes, merged_masks
from backend.label_studio.refusals import MissingError
from backend.settings import Settings
from backend.store import Job, Store
from backend.store.adoptions import FrameChange, before, results_digest
from backend.store.models import Adoption
from backend.store.params import RefineParams
from label_config import parse
from trajseg.errors import InputError, LabelStudioError, TrajSegError
from trajseg.video import FrameMap

log = logging.getLogger("trajseg.delivery")


class AdoptionError(InputError):
    """The annotation is not in the state that the refined tracks belong to; nothing was written."""


@dataclass(frozen=True)
class Plan:
    """What an adoption would write.

    Attributes:
        annotation_id: Label Studio's.
        before: the annotation's results now.
        written: its results afterwards.
        frame_index: 0-based frames of the task's pictures; empty in the box view.
        changes: what differs.
    """

    annotation_id: int
    before: list[dict[str, Any]]
    written: list[dict[str, Any]]
    frame_index: list[int]
    changes: list[FrameChange]


def annotation_of(job: Job) -> int | None:
    """The annotation that a job's tracks can be adopted into; None if the job refines no annotation."""
    if job.kind != "refine" or job.state != "done" or not isinstance(job.asked, RefineParams):
        return None
    return job.asked.annotation_id


def plan(store: Store, client: LabelStudioClient, job: Job) -> Plan:
    """What adopting a refine job's tracks would change.

    Raises:
        AdoptionError: the job refines no annotation, or the annotation was changed or deleted, or has a draft.
        LabelStudioError: Label Studio cannot be reached.
    """
    annotation_id = annotation_of(job)
    if annotation_id is None or job.project_id is None or job.task_id is None:
        raise AdoptionError(f"Job {job.id} refines no annotation.", "Adopt the result of a refine job that is done.")
    project = store.projects.get(job.project_id)
    row = store.corrections.annotation(project.id, annotation_id)
    if row is None:
        raise AdoptionError(f"Annotation {annotation_id} was deleted.", "Open the prediction instead.")
    if row.refine_job_id != job.id:
        raise AdoptionError(
            f"Annotation {annotation_id} was corrected again since this job.", "Adopt the newest refinement."
        )
    project_id = client.id_of(project)
    config = parse(str(client.project(project_id)["label_config"]))
    task = client.task(project_id, job.task_id)
    held = task.data.get("frame_index") if config.view == "mask" else None
    indices = held if isinstance(held, list) else []
    result, rate = store.jobs.result(job.id), config.rate_for(task.data)
    refined = views.to_results(result, config.view, config, indices, frame_rate=rate, job_id=job.id, texts=False)
    tracks = store.corrections.painted(project.id, annotation_id)
    painted = {(track.label, index) for track in tracks for index in (*track.masks, *track.boxes)}
    absent = {(track.label, index) for track in tracks for index, code in track.masks.items() if code is None}
    annotation = _unchanged(client, job.task_id, annotation_id, row.version)
    present = [dict(item) for item in annotation.get("result") or []]
    if config.view == "mask":
        written, changes = merged_masks(present, refined, painted, config, indices)
    elif result.tracks:
        times = tuple(frame.time for frame in result.tracks[0].frames)
        frame_map = FrameMap(times, rate or result.fps)
        written, changes = merged_boxes(present, refined, painted, absent, config, frame_map)
    else:
        written, changes = present, []
    return Plan(annotation_id, present, written, indices, changes)


def adopt(store: Store, client: LabelStudioClient, job: Job) -> Adoption:
    """Writes a refine job's tracks into its annotation.

    Raises as `plan` does, and AdoptionError if nothing would change.
    """
    wanted = plan(store, client, job)
    if not wanted.changes:
        raise AdoptionError(f"Annotation {wanted.annotation_id} already shows these tracks.")
    assert job.project_id is not None
    assert job.task_id is not None
    # Recorded first: the webhook for this write may arrive before the response does.
    adoption = store.adoptions.begin(
        job.project_id,
        job.task_id,
        wanted.annotation_id,
        job.id,
        wanted.before,
        wanted.written,
        wanted.frame_index,
        wanted.changes,
    )
    try:
        _write(store, client, adoption, wanted.written)
    except LabelStudioError:
        store.adoptions.drop(adoption.id)
        raise
    log.info(
        "job %s: %d frames of tracks adopted into annotation %d", job.id, len(wanted.changes), wanted.annotation_id
    )
    return adoption


def undo(store: Store, client: LabelStudioClient, adoption: Adoption) -> None:
    """Restores what was in the annotation before the adoption.

    Raises:
        AdoptionError: it was already undone, or the annotation has been changed since.
        LabelStudioError: Label Studio cannot be reached.
    """
    standing = store.adoptions.standing(adoption.project_id, adoption.annotation_id)
    if standing is None or standing.id != adoption.id:
        raise AdoptionError("This adoption is no longer the current one.", "Undo the newest one.")
    annotation = _unchanged(client, adoption.task_id, adoption.annotation_id)
    if results_digest(annotation.get("result") or []) != adoption.written_digest:
        raise AdoptionError(
            f"Annotation {adoption.annotation_id} has been changed since; undoing would lose that change.",
            "Change it in Label Studio.",
        )
    store.adoptions.undone(adoption.id)
    _write(store, client, adoption, before(adoption))
    log.info("the adoption into annotation %d was undone", adoption.annotation_id)


def adopt_if_wanted(store: Store, client: LabelStudioClient, settings: Settings, job: Job) -> None:
    """Adopts a delivered refinement if the settings say so and nobody has undone it before; never raises."""
    if not settings.adopt_refined or annotation_of(job) is None:
        return
    earlier = store.adoptions.of_job(job.id)
    if earlier is not None and earlier.undone_at is not None:
        return
    try:
        adopt(store, client, job)
    except TrajSegError as error:
        log.info("job %s is not adopted: %s", job.id, error)


def _unchanged(client: LabelStudioClient, task_id: int, annotation_id: int, version: str = "") -> dict[str, Any]:
    """The annotation, if unchanged since that version (when given) and without a draft."""
    remedy = f"Open task {task_id} in Label Studio: press Update, or discard the changes."
    if any(draft.get("annotation") == annotation_id for draft in client.drafts(task_id)):
        raise AdoptionError(f"Someone has unsubmitted changes to annotation {annotation_id}.", remedy)
    try:
        annotation = client.annotation(annotation_id)
    except MissingError as error:
        raise AdoptionError(f"Annotation {annotation_id} was deleted.", "Open the prediction instead.") from error
    if version and str(annotation.get("updated_at") or "") != version:
        raise AdoptionError(
            f"Annotation {annotation_id} has been changed since this job started.",
            "Wait a few seconds for its newest refinement, and adopt that.",
        )
    return annotation


def _write(store: Store, client: LabelStudioClient, adoption: Adoption, results: Sequence[Mapping[str, Any]]) -> None:
    annotation = client.update_annotation(adoption.annotation_id, results)
    store.corrections.seen(adoption.project_id, adoption.annotation_id, str(annotation.get("updated_at") or ""))
