"""The command `trajseg`: its own subcommands, and those of other packages.

A package adds commands with an entry point in the group "trajseg.commands" that names a list of click commands. Nothing
heavy is imported before a subcommand runs: `trajseg --help` loads no torch.
"""

from __future__ import annotations

import os
import sys
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, NamedTuple

import click

from trajseg import __version__
from trajseg.errors import InputError, TrajSegError, shown
from trajseg.leaving import INTERRUPTED, interrupted, leave, leaves_on_interrupt
from trajseg.siblings import PACKAGES, prefer_siblings, stranger

# Ctrl-C may arrive while a command is still being imported.
sys.excepthook = interrupted


class _Own(NamedTuple):
    """A subcommand of trajseg that is imported only when it runs."""

    module: str
    attribute: str
    short_help: str


OWN = {
    "caption": _Own("trajseg.commands.caption", "command", "Describe each track of a video in a sentence."),
    "compare": _Own("trajseg.commands.compare", "command", "Run two engines on a video and show where they differ."),
    "data": _Own("trajseg.shapes.world.command", "data", "Look at the data that trajseg is trained and scored on."),
    "evaluate": _Own("trajseg.commands.evaluate", "command", "Measure a checkpoint on clips with known masks."),
    "model": _Own(
        "trajseg.commands.model", "command", "What models cost; checkpoints out of published ones or an adapter."
    ),
    "preview": _Own("trajseg.commands.preview", "command", "Segment five frames of a video and estimate the rest."),
    "segment": _Own("trajseg.commands.segment", "command", "Segment what an instruction means in a video."),
    "train": _Own("trajseg.shapes.recipe.command", "command", "Train a checkpoint."),
    "weights": _Own("trajseg.commands.weights", "command", "Public weights that engines need: list, fetch, check."),
}


class Commands(click.Group):
    """A group that imports subcommands lazily and turns trajseg's errors into messages and exit codes."""

    _interrupted = False

    @cached_property
    def _brought(self) -> dict[str, click.Command]:
        found: dict[str, click.Command] = {}
        others = [other for package in PACKAGES if (other := stranger(package))]
        for point in entry_points(group="trajseg.commands"):
            if point.module.partition(".")[0] in PACKAGES and others:
                click.echo(
                    f"the commands of {point.name} are left out: {others[0]} was imported before trajseg's package of "
                    "this name; run trajseg in a process of its own, or rename that package",
                    err=True,
                )
                continue
            try:
                for command in point.load():
                    found[command.name] = command
            except ImportError as error:
                click.echo(f"the commands of {point.name} are left out: {error}", err=True)
        return found

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all subcommands, in alphabetical order."""
        return sorted({*super().list_commands(ctx), *OWN, *self._brought})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the subcommand with this name; None if there is none."""
        known = super().get_command(ctx, cmd_name)
        if known is not None:
            return known
        if cmd_name in OWN:
            own = OWN[cmd_name]
            with leaves_on_interrupt():
                command: click.Command = getattr(import_module(own.module), own.attribute)
            return command
        return self._brought.get(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of subcommands without importing trajseg's own."""
        names = self.list_commands(ctx)
        room = formatter.width - 6 - max(map(len, names))
        rows = []
        for name in names:
            if name in OWN:
                rows.append((name, OWN[name].short_help))
            elif (command := self.get_command(ctx, name)) is not None and not command.hidden:
                rows.append((name, command.get_short_help_str(room)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Runs the command line; as the process's main program it ends at once on Ctrl-C."""
        prefer_siblings()
        try:
            return super().main(*args, **extra)
        except SystemExit:
            if self._interrupted and not args and extra.get("args") is None:
                leave(INTERRUPTED)
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the subcommand; exit code 2 for an invalid request, 1 if trajseg cannot do it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            self._interrupted = True
            raise
        except TrajSegError as error:
            click.echo(f"{click.style('Error:', fg='red', bold=True)} {shown(error.message)}", err=True)
            if error.remedy:
                click.echo(shown(error.remedy), err=True)
            ctx.exit(2 if isinstance(error, InputError) else 1)
        except BrokenPipeError:
            raise
        except OSError as error:
            # A full disk, or a folder without write permission.
            click.echo(f"{click.style('Error:', fg='red', bold=True)} {shown(str(error))}", err=True)
            ctx.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="trajseg")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Label video by instruction: a sentence in, editable mask tracks out."""
    # `doctor` lists them among its checks.
    if ctx.invoked_subcommand != "doctor" and any(name.upper().startswith("TRAJSEG_") for name in os.environ):
        from trajseg.variables import unknown_variables

        for variable in unknown_variables():
            click.echo(f"{click.style('Warning:', fg='yellow', bold=True)} {variable.words}.", err=True)
            click.echo(variable.remedy, err=True)
