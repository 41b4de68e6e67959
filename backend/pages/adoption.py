"""The page of an adoption: its changes to the annotation, frame by frame, with pictures, a button and undo."""

from __future__ import annotations

import io

import numpy as np
from flask import Blueprint, current_app, jsonify, redirect, render_template, request, send_file, url_for
from flask.typing import ResponseReturnValue
from numpy.typing import NDArray
from PIL import Image
from werkzeug.exceptions import NotFound

from backend.label_studio.boxes import Box
from backend.label_studio.outgoing.adoption import annotation_of
from backend.label_studio.outgoing.pictures import key_frame_path
from backend.pages import guard, videos
from backend.pages.shown import JobView, in_frames
from backend.service import adoption
from backend.service.service import Service
from backend.store.adoptions import FrameChange, before, changes_of, written
from backend.store.models import Adoption
from label_config import parse
from trajseg.errors import TrajSegError
from trajseg.video import FrameMap

blueprint = Blueprint("adoption", __name__, url_prefix="/jobs/<job_id>/adoption")
ADDED, REMOVED, KEPT = (60, 220, 130), (255, 70, 90), (255, 255, 255)
"""Colours of added, removed and unchanged parts."""


@blueprint.get("")
def page(job_id: str) -> ResponseReturnValue:
    """The changes that adopting a job's tracks has made or would make."""
    service = _service()
    job = service.store.jobs.get(job_id)
    annotation_id = annotation_of(job)
    if annotation_id is None or job.project_id is None:
        raise NotFound("This job refines no annotation.")
    held = service.store.adoptions.of_job(job_id)
    problem: TrajSegError | None = None
    changes: list[FrameChange] = []
    if held is not None and held.undone_at is None:
        changes = changes_of(held)
    else:
        try:
            changes = adoption.plan(service, job_id).changes
        except TrajSegError as error:
            problem = error
    view = JobView(job, service.settings, None, service.store.projects.get(job.project_id), held)
    stills = videos.stills(job_id, (job.result or {}).get("frame_count", 0), service.settings)
    return render_template(
        "pages/adoption.html",
        view=view,
        annotation_id=annotation_id,
        tracks=_by_label(changes),
        in_words=_in_words,
        # In the mask view every changed frame has a picture; in the box view those that the job's task shows.
        pictured=lambda changes: [one for one in changes if (held and held.frame_index) or one.index in stills],
        problem=problem,
        token=guard.new_token(service.settings),
    )


@blueprint.post("")
def adopt(job_id: str) -> ResponseReturnValue:
    """Writes the tracks into the annotation."""
    _prove()
    held = adoption.adopt(_service(), job_id)
    return _respond(job_id, f"{in_frames(held)} of annotation {held.annotation_id} changed")


@blueprint.post("/undo")
def undo(job_id: str) -> ResponseReturnValue:
    """Restores the earlier content."""
    _prove()
    held = adoption.undo(_service(), job_id)
    return _respond(job_id, f"annotation {held.annotation_id} is restored")


@blueprint.get("/picture/<int:index>/<path:label>.jpg")
def picture(job_id: str, index: int, label: str) -> ResponseReturnValue:
    """A frame with what an adoption changed in one track: added green, removed red, the rest white."""
    service = _service()
    held = service.store.adoptions.of_job(job_id)
    if held is None or not any((one.label, one.index) == (label, index) for one in changes_of(held)):
        raise NotFound("Nothing was changed there.")
    was, is_ = _masks(service, held, label, index) if held.frame_index else _outlines(service, held, label, index)
    shape = next(mask.shape for mask in (was, is_) if mask is not None)
    none = np.zeros(shape, bool)
    was, is_ = none if was is None else was, none if is_ is None else is_
    path = service.settings.media_dir / key_frame_path(job_id, index)
    height, width = shape
    pixels: NDArray[np.float64] = np.full((height, width, 3), 90.0)
    if path.exists():
        with Image.open(path) as still:
            pixels = np.asarray(still.convert("RGB").resize((width, height)), np.float64) * 0.6
    for mask, colour in ((was & is_, KEPT), (is_ & ~was, ADDED), (was & ~is_, REMOVED)):
        pixels[mask] = pixels[mask] * 0.45 + np.asarray(colour) * 0.55
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=88)
    file.seek(0)
    return send_file(file, mimetype="image/jpeg", max_age=3600)


def _masks(
    service: Service, held: Adoption, label: str, index: int
) -> tuple[NDArray[np.bool_] | None, NDArray[np.bool_] | None]:
    """The mask of one track on one frame before and after; None if there is none."""
    from backend.label_studio.incoming.annotation import from_annotation

    project = service.store.projects.get(held.project_id)
    config = parse(project.label_config)
    # Read only the results of this one frame, since each PNG takes time to decode.
    indices = _indices(held, index)
    found = []
    for results in (before(held), written(held)):
        mine = [item for item in results if (item.get("item_index") or 0) in indices]
        said = from_annotation(mine, config, [index] * (max(indices, default=0) + 1))
        found.append(said.masks.get((label, index)))
    return found[0], found[1]


def _outlines(
    service: Service, held: Adoption, label: str, index: int
) -> tuple[NDArray[np.bool_] | None, NDArray[np.bool_] | None]:
    """The outlines of one track's box on one frame before and after; None if there is none."""
    from backend.label_studio.incoming.annotation import from_annotation

    config = parse(service.store.projects.get(held.project_id).label_config)
    result = service.store.jobs.result(held.job_id)
    frame_map = FrameMap(tuple(frame.time for frame in result.tracks[0].frames), result.fps)
    rate = config.frame_rate or result.fps
    found: list[NDArray[np.bool_] | None] = []
    for results in (before(held), written(held)):
        box = from_annotation(results, config, frame_map=frame_map, frame_rate=rate).boxes.get((label, index))
        found.append(None if box is None else _outline(box, result.width, result.height))
    return found[0], found[1]


def _outline(box: Box, width: int, height: int) -> NDArray[np.bool_]:
    """The edge of a percent box, bool [height, width]."""
    mask = np.zeros((height, width), bool)
    left, right = (min(max(round(side * width / 100), 0), width) for side in (box[0], box[0] + box[2]))
    top, bottom = (min(max(round(side * height / 100), 0), height) for side in (box[1], box[1] + box[3]))
    thick = max(2, round(min(width, height) / 120))
    mask[top:bottom, left:right] = True
    mask[top + thick : max(bottom - thick, top + thick), left + thick : max(right - thick, left + thick)] = False
    return mask


def _indices(held: Adoption, index: int) -> set[int]:
    """Positions of a frame among the task's pictures."""
    return {position for position, frame in enumerate(held.frame_index) if frame == index}


def _in_words(changes: list[FrameChange]) -> list[str]:
    """The changes by kind and frame (1-based), such as "added on frames 1 to 4, 7"."""
    words = []
    for kind in ("added", "changed", "removed"):
        numbers = sorted(change.index + 1 for change in changes if change.kind == kind)
        stretches: list[list[int]] = []
        for number in numbers:
            if stretches and stretches[-1][-1] == number - 1:
                stretches[-1].append(number)
            else:
                stretches.append([number])
        spans = ", ".join(f"{one[0]} to {one[-1]}" if len(one) > 1 else str(one[0]) for one in stretches)
        if numbers:
            words.append(f"{kind} on frame{'s' if len(numbers) > 1 else ''} {spans}")
    return words


def _by_label(changes: list[FrameChange]) -> dict[str, list[FrameChange]]:
    tracks: dict[str, list[FrameChange]] = {}
    for change in changes:
        tracks.setdefault(change.label, []).append(change)
    return tracks


def _respond(job_id: str, said: str) -> ResponseReturnValue:
    if request.accept_mimetypes.best == "application/json":
        return jsonify(said=said)
    return redirect(url_for("pages.adoption.page", job_id=job_id), 303)


def _prove() -> None:
    guard.check_token(_service().settings, request.form.get(guard.TOKEN_FIELD, ""))


def _service() -> Service:
    service: Service = current_app.extensions["trajseg"]
    return service
