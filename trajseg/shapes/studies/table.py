"""A study's table: values with mean and spread over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any


@dataclass(frozen=True)
class Spread:
    """A value over seeds: mean, sample standard deviation (None for a single seed), and the values by seed."""

    mean: float
    spread: float | None
    each: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Over the seeds that have a value; None if none has."""
        each = tuple(float(value) for value in values if value is not None)
        if not each:
            return None
        return cls(fmean(each), stdev(each) if len(each) > 1 else None, each)

    def __str__(self) -> str:
        digits = 3 if abs(self.mean) < 10 else 1
        spread = "" if self.spread is None else f" ± {self.spread:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread}"


Row = dict[str, Spread | None]


@dataclass
class Table:
    """A table of a study's results.

    Args:
        name: name in files.
        title: title for people.
        heading: heading of the rows' labels.
        columns: headings by key.
        rows: values by key, by row label, in order.
        drawn: keys of the columns in the picture; all have the same unit.
        unit: of these columns.
        notes: sentences that a reader must know.
    """

    name: str
    title: str
    heading: str
    columns: Mapping[str, str]
    rows: dict[str, Row] = field(default_factory=dict)
    drawn: tuple[str, ...] = ()
    unit: str = ""
    notes: tuple[str, ...] = ()

    def add(self, label: str, seeds: Iterable[Mapping[str, float | None]]) -> None:
        """Adds a row, from each seed's values by key."""
        seeds = list(seeds)
        self.rows[label] = {key: Spread.of(seed.get(key) for seed in seeds) for key in self.columns}

    def to_json(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)
