"""`sam3`, an engine for noun phrases: SAM 3 finds and tracks everything of a kind."""

from __future__ import annotations

from trajseg.engines.sam3.settings import PREFIX, Sam3Settings
from trajseg.engines.settings import SettingsFactory

__all__ = ["Sam3Settings", "factory"]

factory = SettingsFactory(Sam3Settings, PREFIX, "trajseg.engines.sam3.engine:Sam3Engine.load")
"""The entry point `sam3` of the group trajseg.engines."""
