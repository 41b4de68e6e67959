"""The report for a lead: how many tasks a day, how much people correct, and what time that spares them.

Minutes saved, over all corrections that stand:

    by hand   = DRAW_SECONDS * masks + BOX_SECONDS * boxes
    with it   = LOOK_SECONDS * frames + DRAW_SECONDS * (sum of edit distances of masks) + BOX_SECONDS * boxes moved
    saved     = by hand - with it

`masks` and `boxes` are frames of tracks that hold one in the end, `frames` are those that were compared. The edit
distance of a mask is 1 - IoU of what the model predicted and what the person left: 0 for one that was left as it was,
1 for one that was drawn where there was none. What people did not look at, between the key frames, counts for nothing.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import date

from backend.store.reports import Corrected, Edit, Reports
from trajseg.tracks import Rle, rle

DAYS = 30
DRAW_SECONDS = 37.8
"""A mask by hand: what SAM 2's authors measured a frame with brush, eraser and SAM's clicks, without tracking
(Ravi et al. 2024, "SAM 2: Segment Anything in Images and Videos", table 1, phase 1). Without SAM it is rather 80 s
(COCO: 22 hours for 1000 masks), so this is on the careful side."""
BOX_SECONDS = 7.0
"""A box by hand, the fastest that was published (Papadopoulos et al. 2017, "Extreme clicking")."""
LOOK_SECONDS = 2.0
"""To look at a frame and go on, or to click away what is wrong. Our own guess: nobody has measured it here."""
EDITS_AT_ONCE = 200


@dataclass(frozen=True)
class Day:
    """One day (UTC): tasks that got a result, and tasks that a person annotated."""

    date: date
    predicted: int
    annotated: int


@dataclass(frozen=True)
class Report:
    """What the report's page shows.

    Attributes:
        edit_distance: of the masks that were edited or added, summed up.
    """

    days: list[Day]
    corrected: Corrected
    edit_distance: float

    @property
    def most(self) -> int:
        """Tasks of the busiest day, at least 1."""
        return max([max(day.predicted, day.annotated) for day in self.days] + [1])

    @property
    def predicted(self) -> int:
        return sum(day.predicted for day in self.days)

    @property
    def annotated(self) -> int:
        return sum(day.annotated for day in self.days)

    @property
    def corrections_per_track(self) -> float | None:
        """None where nothing was corrected or left as it was yet."""
        return self.corrected.changed / self.corrected.tracks if self.corrected.tracks else None

    @property
    def by_hand_minutes(self) -> float:
        """What the masks and boxes would have cost by hand."""
        return (DRAW_SECONDS * self.corrected.masks + BOX_SECONDS * self.corrected.boxes) / 60

    @property
    def spent_minutes(self) -> float:
        """What they cost now, by the same measure."""
        drawn = DRAW_SECONDS * self.edit_distance + BOX_SECONDS * self.corrected.boxes_moved
        return (LOOK_SECONDS * self.corrected.frames + drawn) / 60

    @property
    def saved_minutes(self) -> float:
        """Below 0 where predictions were so bad that looking at them cost more than they spared."""
        return self.by_hand_minutes - self.spent_minutes


class EditDistances:
    """1 - IoU of each edited mask with the predicted one. A correction never changes, so each is compared once."""

    def __init__(self) -> None:
        self._known: dict[int, float] = {}
        self._lock = threading.Lock()

    def total(self, reports: Reports) -> float:
        """Summed up over the edited masks of all corrections that stand."""
        standing = reports.mask_edits()
        with self._lock:
            new = [number for number in standing if number not in self._known]
            for start in range(0, len(new), EDITS_AT_ONCE):
                for edit in reports.edits(new[start : start + EDITS_AT_ONCE]):
                    self._known[edit.correction_id] = distance(edit)
            return sum(self._known[number] for number in standing)


def distance(edit: Edit) -> float:
    """0 for the same mask, 1 for one that has nothing in common with the predicted one, or where that is lost."""
    if edit.predicted is None or edit.predicted["size"] != edit.left["size"]:
        return 1.0
    return 1.0 - rle.iou(_rle(edit.predicted), _rle(edit.left))


def read(reports: Reports, distances: EditDistances) -> Report:
    """The report as the store has it now."""
    predicted, annotated = reports.tasks_per_day(DAYS), reports.annotated_per_day(DAYS)
    corrected = reports.corrected()
    added = corrected.masks_added
    days = [Day(day, tasks, annotated.get(day, 0)) for day, tasks in predicted.items()]
    return Report(days, corrected, distances.total(reports) + added)


def _rle(form: dict[str, object]) -> Rle:
    return {"size": form["size"], "counts": form["counts"]}  # type: ignore[typeddict-item]
