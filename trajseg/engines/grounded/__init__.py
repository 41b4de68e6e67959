"""`grounded`, the engine for real video: phrases -> candidate tracks -> a vision language model chooses."""

from __future__ import annotations

from trajseg.engines.grounded.settings import PREFIX, GroundedSettings
from trajseg.engines.settings import SettingsFactory

__all__ = ["GroundedSettings", "factory"]

factory = SettingsFactory(GroundedSettings, PREFIX, "trajseg.engines.grounded.loading:load")
"""The entry point `grounded` of the group trajseg.engines."""
