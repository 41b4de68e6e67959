"""The report for a lead: how many tasks a day, how much people correct, and what time that spares them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from backend.store.reports import Reports

DAYS = 30


@dataclass(frozen=True)
class Day:
    """Tasks that got a result on one day (UTC)."""

    date: date
    tasks: int


@dataclass(frozen=True)
class Report:
    """What the report's page shows."""

    days: list[Day]

    @property
    def most(self) -> int:
        """Tasks of the busiest day, at least 1."""
        return max([day.tasks for day in self.days] + [1])

    @property
    def total(self) -> int:
        return sum(day.tasks for day in self.days)


def read(reports: Reports) -> Report:
    """The report as the store has it now."""
    return Report([Day(day, tasks) for day, tasks in reports.tasks_per_day(DAYS).items()])
