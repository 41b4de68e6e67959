"""Adoption: refined tracks are written into the annotation whose corrections they carry on, and can be taken out again.

Only masks change on which nobody has painted; what persons painted stays as it is, region by region. An annotation is
written only in the very state in which it was read, and never while somebody has a draft of it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.label_studio.client import LabelStudioClient, MissingError
from backend.label_studio.incoming.annotation import from_annotation
from backend.label_studio.outgoing import views
from backend.settings import Settings
from backend.store import Job, Store
from backend.store.adoptions import FrameChange, before, results_digest
from backend.store.models import Adoption
from backend.store.params import RefineParams
from label_config import LabelConfig, parse
from trajseg.errors import InputError, LabelStudioError, TrajSegError
from trajseg.tracks.region_similarity import region_similarity

log = logging.getLogger("trajseg.delivery")

Place = tuple[str, int]
"""A track's label and a 0-based frame."""


class AdoptionError(InputError):
    """The annotation is not in the state that the refined tracks belong to; nothing was written."""


@dataclass(frozen=True)
class Plan:
    """What an adoption would write.

    Attributes:
        annotation_id: Label Studio's.
        before: the annotation's results now.
        written: its results afterwards.
        frame_index: 0-based frames of the task's pictures.
        changes: what differs.
    """

    annotation_id: int
    before: list[dict[str, Any]]
    written: list[dict[str, Any]]
    frame_index: list[int]
    changes: list[FrameChange]


def annotation_of(job: Job) -> int | None:
    """The annotation that a job's tracks can be adopted into; None for a job that refines none."""
    if job.kind != "refine" or job.state != "done" or not isinstance(job.asked, RefineParams):
        return None
    return job.asked.annotation_id


def plan(store: Store, client: LabelStudioClient, job: Job) -> Plan:
    """What adopting a refine job's tracks would change.

    Raises:
        AdoptionError: the job refines no annotation, or the annotation has changed since, has a draft or is gone.
        LabelStudioError: Label Studio cannot be asked.
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
    config = parse(str(client.project(project.label_studio_id)["label_config"]))
    if config.view != "mask":
        raise AdoptionError(
            "Refined tracks can be adopted in the mask view only.", "In the box view, duplicate the prediction."
        )
    task = client.task(project.label_studio_id, job.task_id)
    indices = task.data.get("frame_index")
    indices = indices if isinstance(indices, list) else []
    refined = views.to_results(store.jobs.result(job.id), "mask", config, indices, job_id=job.id, texts=False)
    painted = {
        (track.label, index)
        for track in store.corrections.painted(project.id, annotation_id)
        for index in (*track.masks, *track.boxes)
    }
    annotation = _unchanged(client, job.task_id, annotation_id, row.version)
    present = [dict(item) for item in annotation.get("result") or []]
    written, changes = merged(present, refined, painted, config, indices)
    return Plan(annotation_id, present, written, indices, changes)


def adopt(store: Store, client: LabelStudioClient, job: Job) -> Adoption:
    """Write a refine job's tracks into its annotation.

    Raises as `plan`, and AdoptionError where nothing would change.
    """
    wanted = plan(store, client, job)
    if not wanted.changes:
        raise AdoptionError(f"Annotation {wanted.annotation_id} shows these tracks already.")
    assert job.project_id is not None
    assert job.task_id is not None
    # Noted first: the webhook of our own writing may be there before the answer is.
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
    log.info("job %s: %d masks adopted into annotation %d", job.id, len(wanted.changes), wanted.annotation_id)
    return adoption


def undo(store: Store, client: LabelStudioClient, adoption: Adoption) -> None:
    """Put back what stood in the annotation before.

    Raises:
        AdoptionError: it was undone already, or somebody has changed the annotation since.
        LabelStudioError: Label Studio cannot be asked.
    """
    standing = store.adoptions.standing(adoption.project_id, adoption.annotation_id)
    if standing is None or standing.id != adoption.id:
        raise AdoptionError("This adoption does not stand any more.", "Undo the newest one.")
    annotation = _unchanged(client, adoption.task_id, adoption.annotation_id)
    if results_digest(annotation.get("result") or []) != adoption.written_digest:
        raise AdoptionError(
            f"Annotation {adoption.annotation_id} was changed since; undoing would lose that.",
            "Change it in Label Studio.",
        )
    store.adoptions.undone(adoption.id)
    _write(store, client, adoption, before(adoption))
    log.info("what was adopted into annotation %d was undone", adoption.annotation_id)


def adopt_if_wanted(store: Store, client: LabelStudioClient, settings: Settings, job: Job) -> None:
    """Adopt a delivered refinement where the settings say so, and nobody has undone that before; never raises."""
    if not settings.adopt_refined or annotation_of(job) is None:
        return
    earlier = store.adoptions.of_job(job.id)
    if earlier is not None and earlier.undone_at is not None:
        return
    try:
        adopt(store, client, job)
    except TrajSegError as error:
        log.info("job %s is not adopted: %s", job.id, error)


def merged(
    present: Sequence[Mapping[str, Any]],
    refined: Sequence[Mapping[str, Any]],
    painted: set[Place],
    config: LabelConfig,
    indices: Sequence[int],
) -> tuple[list[dict[str, Any]], list[FrameChange]]:
    """An annotation's results with the refined masks on frames that nobody painted; and what that changes.

    Args:
        present: the annotation's results.
        refined: results of the refined tracks.
        painted: where persons vouch for what is there, or for there being nothing.
        indices: 0-based frame of each picture of the task.
    """
    now, then = (from_annotation(results, config, indices).masks for results in (present, refined))
    # A region with several labels, or of another tag, is none that trajseg has made: it stays.
    kept = {
        place for item in present for place in _places(item, config, indices) if not _is_plain(item, config)
    } | painted
    changes = []
    for label, index in sorted({*now, *then}):
        if (label, index) in kept:
            continue
        was, is_ = _shown(now.get((label, index))), _shown(then.get((label, index)))
        if was is None and is_ is None:
            continue
        if was is not None and is_ is not None and np.array_equal(was, is_):
            continue
        kind = "added" if was is None else "removed" if is_ is None else "changed"
        j = float(region_similarity(was, is_)) if was is not None and is_ is not None else 0.0
        changes.append(FrameChange(label, index, kind, round(j, 4)))
    changed = {(change.label, change.index) for change in changes}

    def concerned(item: Mapping[str, Any]) -> bool:
        return any(place in changed for place in _places(item, config, indices))

    written = [dict(item) for item in present if not concerned(item)]
    written += [dict(item) for item in refined if concerned(item)]
    return written, changes


def _unchanged(client: LabelStudioClient, task_id: int, annotation_id: int, version: str = "") -> dict[str, Any]:
    """The annotation, if nobody has changed it since that version (where one is given) and nobody has a draft of it."""
    remedy = f"Open task {task_id} in Label Studio: press Update, or discard the changes."
    if any(draft.get("annotation") == annotation_id for draft in client.drafts(task_id)):
        raise AdoptionError(f"Somebody has changes of annotation {annotation_id} that are not submitted yet.", remedy)
    try:
        annotation = client.annotation(annotation_id)
    except MissingError as error:
        raise AdoptionError(f"Annotation {annotation_id} was deleted.", "Open the prediction instead.") from error
    if version and str(annotation.get("updated_at") or "") != version:
        raise AdoptionError(
            f"Annotation {annotation_id} was changed since this job began.",
            "Wait a few seconds for its newest refinement, and adopt that.",
        )
    return annotation


def _write(store: Store, client: LabelStudioClient, adoption: Adoption, results: Sequence[Mapping[str, Any]]) -> None:
    annotation = client.update_annotation(adoption.annotation_id, results)
    store.corrections.seen(adoption.project_id, adoption.annotation_id, str(annotation.get("updated_at") or ""))


def _places(item: Mapping[str, Any], config: LabelConfig, indices: Sequence[int]) -> list[Place]:
    value, position = item.get("value") or {}, int(item.get("item_index") or 0)
    if not 0 <= position < len(indices) or item.get("to_name") != config.object_name:
        return []
    labels = value.get(config.result_type) or value.get("brushlabels") or []
    return [(str(label), int(indices[position])) for label in labels]


def _is_plain(item: Mapping[str, Any], config: LabelConfig) -> bool:
    labels = (item.get("value") or {}).get(config.result_type) or []
    return item.get("from_name") == config.control and len(labels) == 1


def _shown(mask: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """The mask; None where it is empty."""
    return mask if mask is not None and mask.any() else None
