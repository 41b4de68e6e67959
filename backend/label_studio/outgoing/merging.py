"""Merges refined tracks into an annotation's results; whatever a person painted or set is kept as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.label_studio import boxes as box_keys
from backend.label_studio.incoming.annotation import from_annotation
from backend.label_studio.incoming.corrections import BOX_TOLERANCE
from backend.store.adoptions import FrameChange
from label_config import LabelConfig
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import FrameMap

Place = tuple[str, int]
"""A track's label and a 0-based frame."""

Results = Sequence[Mapping[str, Any]]
Merged = tuple[list[dict[str, Any]], list[FrameChange]]


def merged_masks(
    present: Results, refined: Results, painted: set[Place], config: LabelConfig, indices: Sequence[int]
) -> Merged:
    """The annotation's results with the refined masks on frames that nobody painted, and the frames that change.

    Args:
        present: the annotation's results.
        refined: results of the refined tracks.
        painted: frames that persons vouch for, with or without a mask.
        indices: 0-based frame of each picture of the task.
    """
    now, then = (from_annotation(results, config, indices).masks for results in (present, refined))
    # A region with several labels, or of another tag, was not made by trajseg: keep it.
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


def merged_boxes(
    present: Results,
    refined: Results,
    painted: set[Place],
    absent: set[Place],
    config: LabelConfig,
    frame_map: FrameMap,
) -> Merged:
    """The annotation's results with the refined boxes on frames where nobody set one, and the frames that change.

    A track is one region, so its key frames are chosen again. Key frames set by persons are kept exactly, and
    interpolation between the others stays as close to the refined boxes as in a prediction. The label's ranges on
    the timeline are updated too.

    Args:
        present, refined: as in `merged_masks`.
        painted: frames with a box that persons vouch for.
        absent: frames that persons vouch for as having no box, although one may lie outside the track's ranges.
        frame_map: the clip's, at the editor's rate.
    """
    now = from_annotation(present, config, frame_map=frame_map, frame_rate=frame_map.fps).boxes
    written = [dict(item) for item in present]
    changes: list[FrameChange] = []
    for region in refined:
        if region.get("from_name") != config.control:
            continue
        [label] = region["value"]["labels"]
        mine = [item for item in present if label in _box_labels(item, config)]
        if len(mine) > 1 or any(not _is_plain(item, config) for item in mine):
            # Drawn twice, or with several labels: not made by trajseg.
            continue
        fixed = {index for name, index in painted - absent if name == label}
        gone = {index for name, index in absent if name == label}
        with_fixed = _with_boxes(region, mine[0] if mine else None, fixed, gone, frame_map)
        # A person may have removed all boxes.
        new = [with_fixed] if with_fixed else []
        then = from_annotation(new, config, frame_map=frame_map, frame_rate=frame_map.fps).boxes
        own = _box_changes(label, now, then, fixed)
        if not own:
            continue
        changes += own
        events = [item for item in refined if _is_event(item, label, config)]
        written = [item for item in written if item not in mine and not _is_event(item, label, config)]
        written += [*new, *(dict(item) for item in events)]
    return written, sorted(changes, key=lambda change: (change.label, change.index))


def _with_boxes(
    region: Mapping[str, Any], present: Mapping[str, Any] | None, fixed: set[int], gone: set[int], frame_map: FrameMap
) -> dict[str, Any] | None:
    """A refined region that matches the present one on the fixed frames (0-based), and has no box on removed frames.

    None if no box is left.
    """
    last = frame_map.editor_frames
    sequence = (present or {}).get("value", {}).get("sequence") or []
    there = box_keys.from_sequence(sequence, last)
    boxes = box_keys.from_sequence(region["value"]["sequence"], last)
    keys = {int(key["frame"]) for key in sequence}
    set_frames = set()
    for frame in range(1, last + 1):
        index = frame_map.index_of_editor_frame(frame)
        if index in gone:
            boxes.pop(frame, None)
        elif index in fixed and frame in there:
            boxes[frame] = there[frame]
            set_frames |= {frame} & keys
    if not boxes:
        return None
    sequence = box_keys.to_sequence(boxes, last, frame_map.fps, set_frames)
    return {**region, "value": {**region["value"], "sequence": sequence}}


def _box_changes(
    label: str, now: Mapping[Place, box_keys.Box], then: Mapping[Place, box_keys.Box], fixed: set[int]
) -> list[FrameChange]:
    changes = []
    for index in sorted({index for name, index in {**now, **then} if name == label} - fixed):
        was, is_ = now.get((label, index)), then.get((label, index))
        if was is not None and is_ is not None:
            if max(abs(a - b) for a, b in zip(was, is_, strict=True)) > BOX_TOLERANCE:
                changes.append(FrameChange(label, index, "changed", round(_iou(was, is_), 4)))
        else:
            changes.append(FrameChange(label, index, "added" if was is None else "removed", 0.0))
    return changes


def _iou(one: box_keys.Box, other: box_keys.Box) -> float:
    left, top = max(one[0], other[0]), max(one[1], other[1])
    right, bottom = min(one[0] + one[2], other[0] + other[2]), min(one[1] + one[3], other[1] + other[3])
    shared = max(right - left, 0.0) * max(bottom - top, 0.0)
    whole = one[2] * one[3] + other[2] * other[3] - shared
    return shared / whole if whole > 0 else 0.0


def _box_labels(item: Mapping[str, Any], config: LabelConfig) -> list[str]:
    if item.get("from_name") != config.control:
        return []
    return [str(label) for label in (item.get("value") or {}).get("labels") or []]


def _is_event(item: Mapping[str, Any], label: str, config: LabelConfig) -> bool:
    """Whether a result is a range on the timeline with this label alone."""
    value = item.get("value") or {}
    return config.timeline is not None and (item.get("from_name"), value.get("timelinelabels")) == (
        config.timeline,
        [label],
    )


def _places(item: Mapping[str, Any], config: LabelConfig, indices: Sequence[int]) -> list[Place]:
    value, position = item.get("value") or {}, int(item.get("item_index") or 0)
    if not 0 <= position < len(indices) or item.get("to_name") != config.object_name:
        return []
    labels = value.get(config.result_type) or value.get("brushlabels") or []
    return [(str(label), int(indices[position])) for label in labels]


def _is_plain(item: Mapping[str, Any], config: LabelConfig) -> bool:
    """Whether a region belongs to the tag for tracks and has exactly one label."""
    value = item.get("value") or {}
    labels = value.get(config.result_type if config.view == "mask" else "labels") or []
    return item.get("from_name") == config.control and len(labels) == 1


def _shown(mask: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """The mask; None if it is empty."""
    return mask if mask is not None and mask.any() else None
