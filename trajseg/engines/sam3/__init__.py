"""`sam3`, an engine for noun phrases: SAM 3 finds everything of a kind and follows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trajseg.engines.base import EngineSpec
from trajseg.engines.sam3.settings import Sam3Settings

if TYPE_CHECKING:
    from trajseg.engines.sam3.engine import Sam3Engine

__all__ = ["Sam3Factory", "Sam3Settings", "factory"]


class Sam3Factory:
    """Loads the engine by the settings in the environment; its spec is read without loading anything."""

    @property
    def spec(self) -> EngineSpec:
        """What the engine will be able to do. Raises InputError where a setting is wrong."""
        return Sam3Settings.read().spec

    def __call__(self, device: str = "", **options: Any) -> Sam3Engine:
        """The engine.

        Args:
            device: torch's name; empty: the first GPU, else the CPU.
            options: fields of Sam3Settings; they override the environment.

        Raises:
            CheckpointError: the weights are not on this machine.
            ImportError: a package is missing; load_engine names it.
            InputError: a setting is wrong.
        """
        settings = Sam3Settings.read(options)
        from trajseg.engines.sam3.engine import Sam3Engine

        return Sam3Engine.load(settings, device)


factory = Sam3Factory()
"""The entry point `sam3` of the group trajseg.engines."""
