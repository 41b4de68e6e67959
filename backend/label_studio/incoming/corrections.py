"""Corrections: compares an annotation with the prediction it came from, frame by frame.

Label Studio reports little of this itself. A dragged video box still counts as "prediction", new drawings carry
neither our ids nor our meta, and a mask that is erased completely just disappears. So the content is compared:
masks pixel by pixel, boxes by position. A track is identified by its label.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from backend.label_studio.boxes import Box
from backend.label_studio.incoming.annotation import AnnotationContent
from backend.store import Change, Correction
from backend.store.corrections import EXTENDED
from trajseg.tracks import rle as rle_codes

BOX_TOLERANCE = 0.1
"""How far, in percent of the picture's side, a box may be from the predicted one and still count as unchanged."""


@dataclass(frozen=True)
class Source:
    """What predicted a track."""

    job_id: str
    track_uid: str
    model_version: str = ""


@dataclass
class Predicted:
    """What a person started from.

    Attributes:
        content: masks or boxes by (label, 0-based frame).
        sources: by label, for labels that one of our jobs predicted.
    """

    content: AnnotationContent = field(default_factory=AnnotationContent)
    sources: dict[str, Source] = field(default_factory=dict)


def sources(results: Sequence[Mapping[str, Any]], control: str, model_version: str = "") -> dict[str, Source]:
    """By label, the job of ours that the regions of a prediction (or annotation) name as their origin."""
    found: dict[str, Source] = {}
    for item in results:
        if not isinstance(item, Mapping):
            continue
        meta, value = item.get("meta"), item.get("value")
        if item.get("from_name") != control or not isinstance(meta, Mapping) or not isinstance(value, Mapping):
            continue
        job_id, uid = meta.get("job_id"), meta.get("track_uid")
        # Anyone may write meta through Label Studio's API.
        if not job_id or not uid or len(str(job_id)) > 36 or len(str(uid)) > 100:
            continue
        named = (value.get("bitmasklabels"), value.get("labels"))
        for label in (label for labels in named if isinstance(labels, list) for label in labels):
            found.setdefault(str(label), Source(str(job_id), str(uid), model_version))
    return found


def changes(now: AnnotationContent, before: Predicted, size: tuple[int, int] | None = None) -> list[Change]:
    """What changed in each track on each frame that either side shows, by label and frame.

    Of boxes, only key frames count, and frames whose box was removed: nobody has looked at what Label Studio
    interpolates between two key frames.

    Args:
        now: the person's result.
        before: what the person started from.
        size: width and height of the video in pixels; needed where there are boxes.
    """
    found = [*_mask_changes(now, before)]
    if now.boxes or before.content.boxes:
        assert size is not None, "boxes are compared in pixels"
        found += _box_changes(now, before, size)
    return sorted(found, key=lambda change: (change.label, change.frame_index))


def apply_events(now: AnnotationContent, before: Predicted) -> None:
    """Removes the boxes of frames that a person has cut from their track's ranges on the timeline, and notes frames
    without a box that a person has added to a range.

    A label without any range says nothing: the whole timeline may have been cleared. Neither does a range of a label
    without any box: timelines have labels for other events, too.
    """
    tracks = {label for label, _ in (*now.boxes, *before.content.boxes)}
    for label, inside in now.events.items():
        given = before.content.events.get(label, set())
        gone, more = given - inside, inside - given
        if label in tracks:
            extended = {(label, index) for index in more} - now.boxes.keys()
            now.extended |= extended
            for place in extended:
                # A box that is gone from there was not taken away.
                before.content.boxes.pop(place, None)
        if not gone or not inside:
            continue
        for index in gone:
            now.boxes.pop((label, index), None)
            now.keyed.discard((label, index))
        # The frames next to those were looked at: the track extends as far as that.
        beside = {index + step for index in gone for step in (-1, 1)} - gone
        now.keyed |= {(label, index) for index in beside if (label, index) in now.boxes}


def after_adoption(
    now: AnnotationContent,
    before: Predicted,
    earlier: AnnotationContent,
    given: AnnotationContent,
    painted: Collection[tuple[str, int]],
) -> Predicted:
    """What a person started from in an annotation into which refined tracks were adopted.

    Painted frames are still compared with the first prediction, everything else with the adopted tracks. A page that
    was open meanwhile may have written back the earlier content: that is not a correction either.

    Args:
        now: the person's result.
        before: what the person originally started from.
        earlier, given: the annotation before and after the adoption.
        painted: what persons had painted before the adoption, by label and 0-based frame.
    """
    masks = {place: mask for place, mask in before.content.masks.items() if place in painted}
    for place in {**now.masks, **earlier.masks, **given.masks}:
        if place in painted:
            continue
        left, was = now.masks.get(place), earlier.masks.get(place)
        mask = was if _same(left, was) else given.masks.get(place)
        if mask is not None:
            masks[place] = mask
    boxes = {place: box for place, box in before.content.boxes.items() if place in painted}
    for place in {**now.boxes, **earlier.boxes, **given.boxes}:
        if place in painted:
            continue
        box = earlier.boxes.get(place) if _alike(now, earlier, place) else given.boxes.get(place)
        if box is not None:
            boxes[place] = box
    events = {
        label: earlier.events.get(label, set())
        if inside == earlier.events.get(label)
        else given.events.get(label, set())
        for label, inside in now.events.items()
    }
    return Predicted(replace(before.content, masks=masks, boxes=boxes, events=events), dict(before.sources))


def _alike(now: AnnotationContent, earlier: AnnotationContent, place: tuple[str, int]) -> bool:
    """Whether a box is at the same position, or absent from both."""
    left, was = now.boxes.get(place), earlier.boxes.get(place)
    if left is None or was is None:
        return left is was
    return _moved(left, was) <= BOX_TOLERANCE


def _moved(one: Box, other: Box) -> float:
    """Largest difference between corresponding sides of two boxes."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def with_sources(made: Sequence[Change], painted: Mapping[tuple[str, int], Correction]) -> list[Change]:
    """The changes, each naming the job that originally predicted what the person changed."""
    held = ((one, painted.get((one.label, one.frame_index))) for one in made)
    return [
        one
        if row is None
        else replace(one, job_id=row.job_id, track_uid=row.track_uid, model_version=row.model_version)
        for one, row in held
    ]


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return (one is None or not one.any()) and (other is None or not other.any())
    return np.array_equal(one, other)


def caption_changes(now: AnnotationContent, before: Predicted) -> dict[str, str]:
    """Captions that a person wrote, by label; an empty one was removed.

    A sentence that names no label belongs to the only track, if there is just one.
    """
    labels = {label for label, _ in (*now.masks, *now.boxes)}

    def named(content: AnnotationContent) -> dict[str, str]:
        only = next(iter(labels)) if len(labels) == 1 else ""
        return {label or only: text for label, text in content.captions.items() if label or only}

    left, given = named(now), named(before.content)
    return {label: left.get(label, "") for label in {**given, **left} if left.get(label, "") != given.get(label, "")}


def digest(made: Iterable[Change]) -> str:
    """A digest that identifies a set of changes to be propagated."""
    parts = [
        (one.label, one.frame_index, one.kind, one.rle["counts"] if one.rle else None, one.box)
        for one in made
        if one.is_carried
    ]
    return hashlib.sha256(json.dumps(sorted(parts, key=str)).encode()).hexdigest()[:32]


def _mask_changes(now: AnnotationContent, before: Predicted) -> Iterator[Change]:
    for label, index in {**now.masks, **before.content.masks}:
        left, given = now.masks.get((label, index)), before.content.masks.get((label, index))
        # A region may remain although the eraser has removed all of it.
        left = left if left is not None and left.any() else None
        given = given if given is not None and given.any() else None
        if left is None and given is None:
            continue
        kind = _kind(left is not None, given is not None)
        if left is not None and given is not None and np.array_equal(left, given):
            kind = "unchanged"
        code = rle_codes.encode(left) if left is not None else None
        yield _change(before, label, index, kind, rle=code)


def _box_changes(now: AnnotationContent, before: Predicted, size: tuple[int, int]) -> Iterator[Change]:
    changed = set()
    for label, index in {**now.boxes, **before.content.boxes}:
        left, given = now.boxes.get((label, index)), before.content.boxes.get((label, index))
        if left is not None and (label, index) not in now.keyed:
            continue
        kind = _kind(left is not None, given is not None)
        if left is not None and given is not None:
            kind = "edited" if _moved(left, given) > BOX_TOLERANCE else "unchanged"
        pixels = None
        if left is not None:
            x, y, width, height = (round(side * whole / 100, 2) for side, whole in zip(left, size * 2, strict=True))
            pixels = (x, y, width, height)
        if kind != "unchanged":
            changed.add((label, index))
        yield _change(before, label, index, kind, box=pixels)
    for label, index in now.extended - changed:
        yield _change(before, label, index, EXTENDED)


def _kind(left: bool, given: bool) -> str:
    if left and given:
        return "edited"
    return "added" if left else "removed"


def _change(before: Predicted, label: str, index: int, kind: str, **what: Any) -> Change:
    source = before.sources.get(label)
    if source is None:
        return Change(label, index, kind, f"drawn-{label}"[:100], **what)
    return Change(label, index, kind, source.track_uid, source.job_id, source.model_version, **what)
