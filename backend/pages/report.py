"""The report for a team lead: tasks per day, how much people correct, the time saved, and the trend.

backend.effort measures what corrections cost, backend.learning_curve what more of them would bring.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from backend.effort import Effort, EffortReader, total
from backend.stats import ProjectStats, project_stats
from backend.store import Store
from backend.store.reports import Reports
from backend.store.standing import Standing

DAYS = 30


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
        effort: over all current corrections.
        annotations: number of current annotations.
        lead_seconds: the time that Label Studio measured for them, if any.
    """

    days: list[Day]
    effort: Effort
    annotations: int
    lead_seconds: float
    projects: list[ProjectStats]

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


def read(store: Store, reader: EffortReader) -> Report:
    """The current report."""
    reports = Reports(store.database)
    predicted, annotated = reports.tasks_per_day(DAYS), reports.annotated_per_day(DAYS)
    days = [Day(day, tasks, annotated.get(day, 0)) for day, tasks in predicted.items()]
    standing = list(Standing(store).annotations().values())
    return Report(
        days,
        total(reader.tracks(store)),
        len(standing),
        sum(row.lead_seconds or 0.0 for row in standing),
        [held for project in store.projects.list() if (held := project_stats(store, project, reader)).corrected],
    )
