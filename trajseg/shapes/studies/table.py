"""A study's table: figures with their mean and spread over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any


@dataclass(frozen=True)
class Spread:
    """A figure over seeds: its mean and standard deviation (of a sample; None from a single seed), and each seed's."""

    mean: float
    spread: float | None
    each: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Over the seeds that have the figure; None where none has."""
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
    """Findings of a study.

    Args:
        name: of the table, for files.
        title: what it answers.
        heading: what its rows differ in.
        columns: headings by key.
        rows: figures by key, by the row's label, in order.
        drawn: keys of the columns that a picture shows; they have one unit.
        unit: of these.
        notes: what a reader must know, a sentence each.
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
        """A row, from each seed's figures by key."""
        seeds = list(seeds)
        self.rows[label] = {key: Spread.of(seed.get(key) for seed in seeds) for key in self.columns}

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)
