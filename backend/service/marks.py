"""Marks: a smart rectangle or point says where an object is, or is not; decides which track it belongs to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from backend.label_studio import png
from backend.label_studio.incoming.payloads import Context, ContextResult, Held, Task
from label_config import NEGATIVE, LabelConfig
from trajseg.errors import TaskError
from trajseg.tracks import Box, Result

CLICK_PIXELS = 6.0
"""A rectangle with no side longer than this, or than CLICK_SHARE of the picture's side, counts as a point."""
CLICK_SHARE = 0.012
OVERLAP = 0.2
"""Smallest IoU with a track's box at which a rectangle is assigned to that track."""


def drawn(context: Context, config: LabelConfig, task: Task) -> list[dict[str, Any]]:
    """The marks in the form of RefineParams' `marks`, without labels yet.

    Marks on pictures whose frame is unknown are left out.
    """
    indices = task.data.get("frame_index")
    if not isinstance(indices, list):
        return []
    boxes = [(one, _pixels(one)) for one in context.rectangles(config.hint)]
    marked = [(one, box, _is_click(one, box)) for one, box in boxes if box is not None]
    marked += [(one, box, True) for one in context.points(config.point) if (box := _around(one)) is not None]
    return [
        {"index": index, "box": list(box), "point": point, "named": _named(one, config), "negative": _is_negative(one)}
        for one, box, point in marked
        if (index := _frame(one, indices)) is not None
    ]


def with_labels(
    found: Sequence[dict[str, Any]], result: Result | None, config: LabelConfig, task: Task
) -> list[dict[str, Any]]:
    """The marks, each with the label of the track that it belongs to.

    Tried in this order: the track that its own label names; a track that lies under it on that frame; the only track
    that is missing from that frame but present in others; a new track under a free label. A negative mark belongs to
    the track whose mask fits it best; one with nothing inside is left out.

    Raises TaskError if no label is left for a new track.
    """
    taken = set().union(*(held.labels("") for held in (*task.annotations, *task.drafts, *task.predictions)))
    taken |= {track.label for track in result.tracks} if result else set()
    labelled = []
    for mark in found:
        if mark["negative"]:
            if under := mark["named"] or _covered(mark, result):
                labelled.append(_labelled(mark, under))
            continue
        label = mark["named"] or _meant(mark, result)
        if not label:
            label = next((one for one in config.labels if one not in taken), "")
        if not label:
            raise TaskError(
                f"All {len(config.labels)} labels of the project are in use in task {task.id}.",
                "Add labels (track-9, ...) to the project's labelling configuration.",
            )
        taken.add(label)
        labelled.append(_labelled(mark, label))
    return labelled


def digest(labelled: Sequence[dict[str, Any]], base_job_id: str | None) -> str:
    """A digest of a set of marks and of the job that they correct."""
    return hashlib.sha256(json.dumps([list(labelled), base_job_id]).encode()).hexdigest()[:32]


def base_job(task: Task, model_version: str) -> str | None:
    """The job of the task's newest prediction of ours; predictions of this model version come first."""
    ours = [
        (held.model_version == model_version, held.id or 0, job) for held in task.predictions for job in _jobs(held)
    ]
    return max(ours)[2] if ours else None


def empty_places(results: Sequence[dict[str, Any]], task: Task, config: LabelConfig) -> list[dict[str, Any]]:
    """The results on pictures where the page has no region with their label yet.

    A second region with the same label would be merged into the first, so the corrected track comes as a prediction.
    """
    drawn = [held.result for held in task.drafts[-1:] or task.annotations[-1:] or task.predictions[-1:]]
    places = {place for held in drawn for item in held for place in _places(item, config)}
    return [item for item in results if not any(place in places for place in _places(item, config))]


def _jobs(held: Held) -> Iterator[str]:
    for item in held.result:
        meta = item.get("meta")
        if isinstance(meta, dict) and meta.get("job_id"):
            yield str(meta["job_id"])
            return


def _places(item: dict[str, Any], config: LabelConfig) -> Iterator[tuple[str, int]]:
    value = item.get("value")
    if item.get("from_name") != config.control or not isinstance(value, dict):
        return
    url = value.get("imageDataURL")
    if isinstance(url, str) and not png.from_url(url).any():
        return
    for label in value.get(config.result_type) or []:
        yield str(label), int(item.get("item_index") or 0)


def _labelled(mark: dict[str, Any], label: str) -> dict[str, Any]:
    kept = {key: mark[key] for key in ("index", "box", "point")}
    return {"label": label, **kept, **({"negative": True} if mark["negative"] else {})}


def _own_labels(one: ContextResult) -> list[Any]:
    labels = one.value.get("rectanglelabels") or one.value.get("keypointlabels")
    return labels if isinstance(labels, list) else []


def _named(one: ContextResult, config: LabelConfig) -> str:
    return next((label for label in _own_labels(one) if label in config.labels), "")


def _is_negative(one: ContextResult) -> bool:
    return any(str(label).lower() in NEGATIVE for label in _own_labels(one))


def _frame(one: ContextResult, indices: Sequence[Any]) -> int | None:
    # Label Studio omits item_index if the task has one picture.
    position = one.item_index or 0
    index = indices[position] if 0 <= position < len(indices) else None
    return index if isinstance(index, int) and index >= 0 else None


def _pixels(one: ContextResult) -> Box | None:
    try:
        x, y, width, height = (float(one.value[key]) for key in ("x", "y", "width", "height"))
    except (KeyError, TypeError, ValueError):
        return None
    across, down = one.original_width / 100, one.original_height / 100
    if across <= 0 or down <= 0:
        return None
    return round(x * across, 2), round(y * down, 2), round(width * across, 2), round(height * down, 2)


def _around(one: ContextResult) -> Box | None:
    """The smallest box around a key point."""
    try:
        x, y = (float(one.value[key]) for key in ("x", "y"))
    except (KeyError, TypeError, ValueError):
        return None
    if one.original_width <= 0 or one.original_height <= 0:
        return None
    return round(x * one.original_width / 100 - 0.5, 2), round(y * one.original_height / 100 - 0.5, 2), 1.0, 1.0


def _is_click(one: ContextResult, box: Box) -> bool:
    longest = max(CLICK_PIXELS, CLICK_SHARE * max(one.original_width, one.original_height))
    return max(box[2], box[3]) <= longest


def _covered(mark: dict[str, Any], result: Result | None) -> str:
    """The label of the track whose mask fits a negative mark best; empty if no track has anything inside it."""
    if result is None or not 0 <= mark["index"] < result.frame_count:
        return ""
    x, y, width, height = mark["box"]
    left, top = max(int(x), 0), max(int(y), 0)
    right, bottom = max(round(x + width), left + 1), max(round(y + height), top + 1)
    fits = []
    for track in result.tracks:
        if track.frames[mark["index"]].rle is not None:
            mask = track.mask(mark["index"])
            inside = int(mask[top:bottom, left:right].sum())
            # IoU, so that a large mask that merely extends into the box is not chosen.
            fits.append((inside / ((right - left) * (bottom - top) + int(mask.sum()) - inside), track.label))
    fit, label = max(fits, default=(0.0, ""))
    return label if fit else ""


def _meant(mark: dict[str, Any], result: Result | None) -> str:
    if result is None or not 0 <= mark["index"] < result.frame_count:
        return ""
    index, box = mark["index"], mark["box"]
    under = [(_overlap(box, track.box(index), mark["point"]), track.label) for track in result.tracks]
    best = max(under, default=(0.0, ""))
    if best[0] >= OVERLAP:
        return best[1]
    lost = [track.label for track in result.tracks if track.frames[index].rle is None and track.present]
    return lost[0] if len(lost) == 1 else ""


def _overlap(box: Sequence[float], other: Box | None, point: bool) -> float:
    """IoU of two boxes; for a point, whether it lies inside the other box."""
    if other is None:
        return 0.0
    left, top = max(box[0], other[0]), max(box[1], other[1])
    right, bottom = min(box[0] + box[2], other[0] + other[2]), min(box[1] + box[3], other[1] + other[3])
    both = max(right - left, 0.0) * max(bottom - top, 0.0)
    if point:
        return 1.0 if both > 0 else 0.0
    return both / max(box[2] * box[3] + other[2] * other[3] - both, 1e-9)
