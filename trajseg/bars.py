"""The progress bar of commands, trainings and scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def bars(console: Console | None = None, count: ProgressColumn | None = None, stay: bool = False) -> Progress:
    """Bars with the time left; add tasks to it. None is drawn where the console is not a terminal.

    Args:
        console: what is printed on it appears above the bars; by default stderr.
        count: shows how far a task is, by default as "3/12".
        stay: keep finished bars.
    """
    console = console or Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        count or MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=console,
        transient=not stay,
        redirect_stdout=not console.stderr,
        # In a file or a pipe a bar would leave an empty line.
        disable=console.quiet or not console.is_terminal,
    )


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr; yields the function to call with (done, total)."""
    with bars() as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
