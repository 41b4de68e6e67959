"""Options of commands that load an engine: its name, device, and dtype."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trajseg.engines.registry import DTYPES, check_engine, load_engine, loading_options
from trajseg.leaving import leaves_on_interrupt

if TYPE_CHECKING:
    from trajseg.engines.base import Engine
    from trajseg.engines.registry import EngineLoader

Command = TypeVar("Command", bound=Callable[..., Any])

DEVICE = click.option("--device", help="Device, as named by torch [the first GPU, else the CPU].")
DTYPE = click.option("--dtype", type=click.Choice(DTYPES), help="Number format of the weights [the checkpoint's own].")
FOUR_BIT = click.option("--four-bit", is_flag=True, help="Language model's layers in 4 bits (needs bitsandbytes).")


@dataclass(frozen=True)
class EngineChoice:
    """The engine that a command should load, by `load_engine` or a test's replacement for it."""

    loader: EngineLoader | None
    model: str
    device: str | None
    options: dict[str, Any]

    def load(self) -> Engine:
        """Raises as `trajseg.engines.registry.load_engine` does; Ctrl-C ends the process meanwhile."""
        with leaves_on_interrupt():
            return (self.loader or load_engine)(self.model, self.device, **self.options)

    def check(self) -> None:
        """Raises CheckpointError if there is no such engine, or its weights are missing; loads nothing."""
        if self.loader is None:
            check_engine(self.model)


def engine_options(command: Command) -> Command:
    """Adds --model, --device, --dtype and --four-bit; passes them, with the context's loader, as `engine`.

    The loader is the object of click's context: None for `load_engine`, or a test's replacement.
    """

    @click.option(
        "--model", default="trajseg-tiny", show_default=True, help="A checkpoint's name or folder, or an engine."
    )
    @DEVICE
    @DTYPE
    @FOUR_BIT
    @click.pass_obj
    @wraps(command)
    def with_engine(
        loader: EngineLoader | None,
        /,
        *arguments: Any,
        model: str,
        device: str | None,
        dtype: str | None,
        four_bit: bool,
        **others: Any,
    ) -> Any:
        choice = EngineChoice(loader, model, device, loading_options(dtype, four_bit))
        return command(*arguments, engine=choice, **others)

    return with_engine  # type: ignore[return-value]
