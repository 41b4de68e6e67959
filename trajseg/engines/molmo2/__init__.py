"""`molmo2`, an engine for sentences: Molmo2 points at the objects; SAM 2.1 segments and tracks them."""

from __future__ import annotations

from trajseg.engines.molmo2.settings import PREFIX, Molmo2Settings
from trajseg.engines.settings import SettingsFactory

__all__ = ["Molmo2Settings", "factory"]

factory = SettingsFactory(Molmo2Settings, PREFIX, "trajseg.engines.molmo2.engine:Molmo2Engine.load")
"""The entry point `molmo2` of the group trajseg.engines."""
