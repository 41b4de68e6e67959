"""Effort: what people's corrections cost, track by track, and how that changes from model version to version.

What counts is the annotation that stands for a task (backend.store.standing), and of it only frames that a person
vouched for: submitted unchanged, edited, added or removed. Frames between the pictures that were shown count nothing.

    by hand   = DRAW_SECONDS * masks + BOX_SECONDS * boxes
    with it   = LOOK_SECONDS * frames + DRAW_SECONDS * (sum of edit distances of masks) + BOX_SECONDS * boxes moved
    saved     = by hand - with it

`masks` and `boxes` are frames that hold one in the end. The edit distance of a mask is 1 - IoU of what the model
predicted and what the person left: 0 for one that was left as it was, 1 for one that was drawn where there was none.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from backend.store import Store
from backend.store.models import Annotation, Correction
from backend.store.reports import Edit, Reports
from backend.store.standing import Standing
from trajseg.tracks import Rle, rle

DRAW_SECONDS = 37.8
"""A mask by hand: what SAM 2's authors measured a frame with brush, eraser and SAM's clicks, without tracking
(Ravi et al. 2024, "SAM 2: Segment Anything in Images and Videos", table 1, phase 1). Without SAM it is rather 80 s
(COCO: 22 hours for 1000 masks), so this is on the careful side."""
BOX_SECONDS = 7.0
"""A box by hand, the fastest that was published (Papadopoulos et al. 2017, "Extreme clicking")."""
LOOK_SECONDS = 2.0
"""To look at a frame and go on, or to click away what is wrong. Our own guess: nobody has measured it here."""
TASKS_AT_ONCE = 200


@dataclass(frozen=True)
class Effort:
    """What people did with some tracks, in frames that they vouched for.

    Args:
        tracks: of how many tracks; a track is a label in a task.
        kinds: frames by kind of correction: unchanged, edited, added, removed.
        masks, boxes: frames that hold a mask or a box in the end.
        boxes_moved: boxes that were moved or added.
        edit_distance: of the masks that were edited or added, summed up.
    """

    tracks: int = 0
    kinds: Mapping[str, int] = field(default_factory=dict)
    masks: int = 0
    boxes: int = 0
    boxes_moved: int = 0
    edit_distance: float = 0.0

    @property
    def frames(self) -> int:
        """That people vouched for."""
        return sum(self.kinds.values())

    @property
    def changed(self) -> int:
        """Of these, frames that people changed."""
        return self.frames - self.kinds.get("unchanged", 0)

    @property
    def by_hand_minutes(self) -> float:
        """What the masks and boxes would have cost by hand."""
        return (DRAW_SECONDS * self.masks + BOX_SECONDS * self.boxes) / 60

    @property
    def spent_minutes(self) -> float:
        """What they cost, by the same measure."""
        drawn = DRAW_SECONDS * self.edit_distance + BOX_SECONDS * self.boxes_moved
        return (LOOK_SECONDS * self.frames + drawn) / 60

    @property
    def saved_minutes(self) -> float:
        """Below 0 where predictions were so bad that looking at them cost more than they spared."""
        return self.by_hand_minutes - self.spent_minutes

    @property
    def changed_per_track(self) -> float:
        """Frames that people changed a track; 0 without tracks."""
        return self.changed / self.tracks if self.tracks else 0.0

    @property
    def minutes_per_track(self) -> float:
        """Minutes that a track cost; 0 without tracks."""
        return self.spent_minutes / self.tracks if self.tracks else 0.0


@dataclass(frozen=True)
class TrackEffort:
    """What people did with one track.

    Args:
        project_id: the store's own.
        model_version: that predicted what people began with; empty where none did.
        when: of the annotation.
    """

    project_id: int
    task_id: int
    label: str
    model_version: str
    when: datetime
    effort: Effort


@dataclass(frozen=True)
class VersionEffort:
    """What tracks cost that one model version had predicted.

    Args:
        weeks: by the Monday of each week in which they were annotated.
    """

    model_version: str
    tasks: int
    first: datetime
    last: datetime
    effort: Effort
    weeks: Mapping[date, Effort]


class EffortReader:
    """Reads the effort of a store's tracks. What was compared once is kept; safe to share between threads."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], list[TrackEffort]] = {}
        self._lock = threading.Lock()

    def tracks(self, store: Store, project_id: int | None = None) -> list[TrackEffort]:
        """Of one project (the store's id), or of all; by project, task and label."""
        standing = Standing(store).annotations(project_id)
        with self._lock:
            new = [row for row in standing.values() if (row.id, row.version) not in self._known]
            for start in range(0, len(new), TASKS_AT_ONCE):
                self._compare(store, new[start : start + TASKS_AT_ONCE])
            found = [self._known[row.id, row.version] for row in standing.values()]
        return sorted(
            (track for tracks in found for track in tracks),
            key=lambda track: (track.project_id, track.task_id, track.label),
        )

    def _compare(self, store: Store, annotations: Sequence[Annotation]) -> None:
        rows = {row.id: store.corrections.compared(row.project_id, row.annotation_id) for row in annotations}
        edited = [
            correction.id
            for compared in rows.values()
            for correction in compared.corrections
            if correction.kind == "edited" and correction.rle is not None
        ]
        distances = {edit.correction_id: distance(edit) for edit in Reports(store.database).edits(edited)}
        for row in annotations:
            compared = rows[row.id]
            groups: dict[str, list[Correction]] = {}
            for correction in compared.corrections:
                groups.setdefault(correction.label, []).append(correction)
            # A track that the model missed is on its account, too.
            version = next((compared.versions[label] for label in groups if compared.versions.get(label)), "")
            self._known[row.id, row.version] = [
                TrackEffort(
                    row.project_id,
                    row.task_id,
                    label,
                    compared.versions.get(label) or version,
                    row.when,
                    _effort(group, distances),
                )
                for label, group in groups.items()
            ]


def distance(edit: Edit) -> float:
    """0 for the same mask, 1 for one that has nothing in common with the predicted one, or where that is lost."""
    if edit.predicted is None or edit.predicted["size"] != edit.left["size"]:
        return 1.0
    return 1.0 - rle.iou(_rle(edit.predicted), _rle(edit.left))


def total(tracks: Iterable[TrackEffort]) -> Effort:
    """All of them together."""
    return _sum(track.effort for track in tracks)


def by_version(tracks: Iterable[TrackEffort]) -> list[VersionEffort]:
    """What tracks cost, by the version that predicted them, the one that came first in front."""
    groups: dict[str, list[TrackEffort]] = {}
    for track in tracks:
        if track.model_version:
            groups.setdefault(track.model_version, []).append(track)
    found = []
    for version, group in groups.items():
        weeks: dict[date, list[Effort]] = {}
        for track in sorted(group, key=lambda track: track.when):
            day = track.when.date()
            weeks.setdefault(day - timedelta(days=day.weekday()), []).append(track.effort)
        found.append(
            VersionEffort(
                version,
                len({(track.project_id, track.task_id) for track in group}),
                min(track.when for track in group),
                max(track.when for track in group),
                total(group),
                {monday: _sum(efforts) for monday, efforts in weeks.items()},
            )
        )
    return sorted(found, key=lambda version: version.first)


def _sum(efforts: Iterable[Effort]) -> Effort:
    kinds: Counter[str] = Counter()
    tracks = masks = boxes = moved = 0
    edit_distance = 0.0
    for effort in efforts:
        kinds.update(effort.kinds)
        tracks, masks, boxes = tracks + effort.tracks, masks + effort.masks, boxes + effort.boxes
        moved, edit_distance = moved + effort.boxes_moved, edit_distance + effort.edit_distance
    return Effort(tracks, dict(kinds), masks, boxes, moved, edit_distance)


def _effort(corrections: Sequence[Correction], distances: Mapping[int, float]) -> Effort:
    changed = [row for row in corrections if row.kind != "unchanged"]
    added = sum(row.kind == "added" and row.rle is not None for row in changed)
    return Effort(
        1,
        dict(Counter(row.kind for row in corrections)),
        sum(row.rle is not None for row in corrections),
        sum(row.box is not None for row in corrections),
        sum(row.box is not None for row in changed),
        added + sum(distances.get(row.id, 0.0) for row in changed),
    )


def _rle(form: dict[str, object]) -> Rle:
    return {"size": form["size"], "counts": form["counts"]}  # type: ignore[typeddict-item]
