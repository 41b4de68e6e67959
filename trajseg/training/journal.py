"""A training's output: log.jsonl, TensorBoard, a progress bar with the time left, and warnings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import TextColumn

from trajseg.bars import bars


class Writer(Protocol):
    """The part of TensorBoard's SummaryWriter in use."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any: ...
    def add_text(self, tag: str, text_string: str, global_step: int) -> Any: ...
    def close(self) -> None: ...


class Journal:
    """The log of one training in `folder`: log.jsonl, and tensorboard/ if TensorBoard is installed.

    Args:
        folder: of the training.
        step: where it resumes; log lines beyond it, from a killed run, are dropped.
        total: the bar's total number of steps.
        quiet: for all but the first of several processes: shows and writes nothing.
    """

    def __init__(self, folder: Path, step: int, total: int, quiet: bool = False) -> None:
        self.quiet = quiet
        self.path = folder / "log.jsonl"
        self.name = folder.name
        self.console = Console(quiet=quiet)
        self.writer: Writer | None = None
        if not quiet:
            self._drop_after(step)
            self.writer = _tensorboard(folder / "tensorboard", step)
        self.progress = bars(self.console, TextColumn("{task.fields[shown]}"), stay=True)
        self.bar = self.progress.add_task(self.name, total=total, shown="")

    def __enter__(self) -> Journal:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        if self.writer:
            self.writer.close()

    def advance(self, step: int, loss: float) -> None:
        """Moves the bar to this number of steps."""
        self.progress.update(self.bar, completed=step, shown=f"step {step}, loss {loss:.4g}")

    def line(self, step: int, left: str, figures: Mapping[str, float]) -> None:
        """Logs means of figures up to a step."""
        if self.quiet:
            return
        self._append({"step": step, **figures})
        self.console.print(f"{self.name}: {left}", escape(json.dumps({"step": step, **figures})), soft_wrap=True)
        if self.writer:
            for name, figure in figures.items():
                self.writer.add_scalar(name, figure, step)

    def warn(self, step: int, text: str) -> None:
        """Prints and logs a warning."""
        if self.quiet:
            return
        self._append({"step": step, "warning": text})
        self.console.print(f"[yellow]{self.name}, step {step}: {escape(text)}[/yellow]", soft_wrap=True)
        if self.writer:
            self.writer.add_text("warning", text, step)

    def say(self, text: str) -> None:
        """Prints something that is not logged."""
        self.console.print(f"{self.name}: {escape(text)}", soft_wrap=True)

    def _append(self, line: Mapping[str, Any]) -> None:
        with self.path.open("a") as log:
            log.write(json.dumps(line) + "\n")

    def _drop_after(self, step: int) -> None:
        if self.path.exists():
            lines = self.path.read_text().splitlines(keepends=True)
            # A killed run may have left half a line.
            kept = [line.strip() for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            self.path.write_text("".join(f"{line}\n" for line in kept))


def _tensorboard(folder: Path, step: int) -> Writer | None:
    """A TensorBoard log that continues after `step`; None if the extra `train` is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    writer: Writer = SummaryWriter(str(folder), purge_step=step + 1)
    return writer
