"""Effort: what people's corrections cost per track, and how that changes between model versions.

Only a task's deciding annotation counts (backend.store.standing), and in it only frames that a person vouched for:
submitted unchanged, edited, added or removed. Frames between the shown pictures do not count.

    by hand   = DRAW_SECONDS * masks + BOX_SECONDS * boxes
    with it   = LOOK_SECONDS * frames + DRAW_SECONDS * (sum of edit distances of masks) + BOX_SECONDS * boxes moved
    saved     = by hand - with it

`masks` and `boxes` count frames that hold one in the end. The edit distance of a mask is 1 - IoU between the predicted
and the final mask: 0 for a mask left unchanged, 1 for one drawn where there was none.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from backend.store import Store
from backend.store.corrections import LONGEST_LINEAGE
from backend.store.models import Annotation, Correction
from backend.store.reports import Edit, Reports
from backend.store.standing import Standing
from trajseg.errors import InputError
from trajseg.tracks import Rle, rle

DRAW_SECONDS = 37.8
"""A mask by hand: the time per frame that SAM 2's authors measured with brush, eraser and SAM's clicks, no tracking
(Ravi et al. 2024, "SAM 2: Segment Anything in Images and Videos", table 1, phase 1). Without SAM about 80 s is typical
(COCO: 22 hours for 1000 masks), so this estimate is conservative."""
BOX_SECONDS = 7.0
"""A box by hand, the fastest published time (Papadopoulos et al. 2017, "Extreme clicking")."""
LOOK_SECONDS = 2.0
"""To check a frame and move on, or to delete a wrong mask. Our own estimate, not measured."""
TASKS_AT_ONCE = 200


@dataclass(frozen=True)
class Effort:
    """What people did with some tracks, on frames that they vouched for.

    Args:
        tracks: number of tracks; a track is a label in a task.
        kinds: frames by kind of correction: unchanged, edited, added, removed.
        masks, boxes: frames that hold a mask or a box in the end.
        boxes_moved: boxes that were moved or added.
        edit_distance: total over the masks that were edited or added.
    """

    tracks: int = 0
    kinds: Mapping[str, int] = field(default_factory=dict)
    masks: int = 0
    boxes: int = 0
    boxes_moved: int = 0
    edit_distance: float = 0.0

    @property
    def frames(self) -> int:
        """Frames that people vouched for."""
        return sum(self.kinds.values())

    @property
    def changed(self) -> int:
        """Frames among them that people changed."""
        return self.frames - self.kinds.get("unchanged", 0)

    @property
    def by_hand_minutes(self) -> float:
        """What the masks and boxes would have cost by hand."""
        return (DRAW_SECONDS * self.masks + BOX_SECONDS * self.boxes) / 60

    @property
    def spent_minutes(self) -> float:
        """What they did cost, by the same measure."""
        drawn = DRAW_SECONDS * self.edit_distance + BOX_SECONDS * self.boxes_moved
        return (LOOK_SECONDS * self.frames + drawn) / 60

    @property
    def saved_minutes(self) -> float:
        """Negative if the predictions were so bad that checking them cost more than it saved."""
        return self.by_hand_minutes - self.spent_minutes

    @property
    def changed_per_track(self) -> float:
        """Changed frames per track; 0 without tracks."""
        return self.changed / self.tracks if self.tracks else 0.0

    @property
    def minutes_per_track(self) -> float:
        """Minutes per track; 0 without tracks."""
        return self.spent_minutes / self.tracks if self.tracks else 0.0


@dataclass(frozen=True)
class TrackEffort:
    """What people did with one track.

    Args:
        project_id: the store's own.
        model_version: that predicted what people started from; empty if there was no prediction.
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
    """The cost of tracks predicted by one model version.

    Args:
        weeks: by the Monday of the week of annotation.
    """

    model_version: str
    tasks: int
    first: datetime
    last: datetime
    effort: Effort
    weeks: Mapping[date, Effort]


class EffortReader:
    """Reads the effort of a store's tracks. Comparisons are cached; safe to share between threads."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], list[TrackEffort]] = {}
        self._lock = threading.Lock()

    def tracks(self, store: Store, project_id: int | None = None) -> list[TrackEffort]:
        """Of one project (the store's id) or of all; by project, task and label."""
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
            # A track that the model missed counts against it, too, even if it found nothing at all.
            version = next((compared.versions[label] for label in groups if compared.versions.get(label)), "")
            version = version or _began_with(store, row.job_id)
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


def _began_with(store: Store, job_id: str | None) -> str:
    """The version of the prediction that a job's result goes back to, over refinements; empty if that is not stored."""
    try:
        for _ in range(LONGEST_LINEAGE):
            if not job_id:
                break
            job = store.jobs.get(job_id)
            if not job.asked.earlier_job_id:
                return job.model_version
            job_id = job.asked.earlier_job_id
    except InputError:
        pass
    return ""


def distance(edit: Edit) -> float:
    """0 for the same mask, 1 for one with no overlap with the predicted one, or if that is no longer stored."""
    if edit.predicted is None or edit.predicted["size"] != edit.left["size"]:
        return 1.0
    return 1.0 - rle.iou(_rle(edit.predicted), _rle(edit.left))


def total(tracks: Iterable[TrackEffort]) -> Effort:
    """The sum over all of them."""
    return _sum(track.effort for track in tracks)


def by_version(tracks: Iterable[TrackEffort]) -> list[VersionEffort]:
    """The cost of tracks by the version that predicted them, earliest version first."""
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
