"""`molmo2`, an engine for sentences: Molmo2 points at what is meant, and SAM 2.1 draws and follows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trajseg.engines.base import EngineSpec
from trajseg.engines.molmo2.settings import Molmo2Settings

if TYPE_CHECKING:
    from trajseg.engines.molmo2.engine import Molmo2Engine

__all__ = ["Molmo2Factory", "Molmo2Settings", "factory"]


class Molmo2Factory:
    """Loads the engine by the settings in the environment; its spec is read without loading anything."""

    @property
    def spec(self) -> EngineSpec:
        """What the engine will be able to do. Raises InputError where a setting is wrong."""
        return Molmo2Settings.read().spec

    def __call__(self, device: str = "", **options: Any) -> Molmo2Engine:
        """The engine.

        Args:
            device: torch's name; empty: the first GPU, else the CPU.
            options: fields of Molmo2Settings; they override the environment.

        Raises:
            CheckpointError: the weights are not on this machine, or are not of a Molmo2.
            ImportError: a package is missing; load_engine names it.
            InputError: a setting is wrong.
        """
        settings = Molmo2Settings.read(options)
        from trajseg.engines.molmo2.engine import Molmo2Engine

        return Molmo2Engine.load(settings, device)


factory = Molmo2Factory()
"""The entry point `molmo2` of the group trajseg.engines."""
