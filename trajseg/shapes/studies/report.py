"""Output of studies: tables on stdout, and one picture with a panel per table."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from trajseg.shapes.studies.table import Table

PANELS_A_ROW = 2
COLOURS = ("#1f5fa8", "#c8553d", "#3d8f5b", "#8a5fa8", "#7a7a7a")
MARKS = ("o", "s", "^", "D", "v")


def print_tables(tables: Sequence[Table], seeds: int) -> None:
    """Prints each table with its notes."""
    console = Console(width=150)
    for table in tables:
        over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
        shown = RichTable(title=f"{table.title}; {over}", title_justify="left", caption_justify="left")
        shown.caption = "\n".join(table.notes) or None
        shown.add_column(table.heading)
        for heading in table.columns.values():
            shown.add_column(heading, justify="right")
        for label, row in table.rows.items():
            shown.add_row(label, *("" if row[key] is None else str(row[key]) for key in table.columns))
        console.print(shown)


def draw(tables: Sequence[Table], path: Path) -> Path:
    """Draws the `drawn` columns of each table over its rows as a PNG, with error bars for the spread over seeds.

    Numeric rows are connected by lines.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    height = -(-len(tables) // PANELS_A_ROW)
    figure, axes = plt.subplots(height, PANELS_A_ROW, figsize=(13, 4.2 * height), squeeze=False, layout="constrained")
    for axis in axes.flat[len(tables) :]:
        axis.set_axis_off()
    for axis, table in zip(axes.flat, tables, strict=False):
        labels = list(table.rows)
        ordered = all(label[0].isdigit() for label in labels)
        for number, key in enumerate(table.drawn):
            points = [(place, row[key]) for place, row in enumerate(table.rows.values())]
            known = [(place, figure) for place, figure in points if figure is not None]
            # Shifted, so that the bars of equal values do not hide each other.
            shift = 0.07 * (number - (len(table.drawn) - 1) / 2)
            axis.errorbar(
                [place + shift for place, _ in known],
                [figure.mean for _, figure in known],
                [figure.spread or 0.0 for _, figure in known],
                color=COLOURS[number % len(COLOURS)],
                marker=MARKS[number % len(MARKS)],
                linestyle="-" if ordered else "none",
                capsize=3,
                label=table.columns[key],
            )
        axis.set_title("\n".join(textwrap.wrap(table.title, 62)), fontsize=10, loc="left")
        wrapped = ["\n".join(textwrap.wrap(label, 18)) for label in labels]
        axis.set_xticks(range(len(labels)), wrapped, fontsize=9)
        axis.set_xlim(-0.5, len(labels) - 0.5)
        axis.set_xlabel(table.heading)
        axis.set_ylabel(table.unit)
        axis.grid(axis="y", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
