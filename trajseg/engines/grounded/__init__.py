"""`grounded`, the engine for real video: phrases -> candidate tracks -> a vision language model that chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trajseg.engines.base import EngineSpec
from trajseg.engines.grounded.settings import GroundedSettings

if TYPE_CHECKING:
    from trajseg.engines.grounded.engine import GroundedEngine

__all__ = ["GroundedFactory", "GroundedSettings", "factory"]


class GroundedFactory:
    """Loads the engine by the settings in the environment; its spec is read without loading anything."""

    @property
    def spec(self) -> EngineSpec:
        """What the engine will be able to do. Raises InputError or CheckpointError where a setting is wrong."""
        return GroundedSettings.read().spec

    def __call__(self, device: str = "", **options: Any) -> GroundedEngine:
        """The engine.

        Args:
            device: torch's name; empty: the first GPU, else the CPU.
            options: fields of GroundedSettings; they override the environment.

        Raises:
            CheckpointError: weights are not on this machine or cannot be loaded.
            ImportError: a package is missing; load_engine names it.
            InputError: a setting is wrong.
        """
        settings = GroundedSettings.read(options)
        from trajseg.engines.grounded.loading import load

        return load(settings, device)


factory = GroundedFactory()
"""The entry point `grounded` of the group trajseg.engines."""
