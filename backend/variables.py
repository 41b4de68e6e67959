"""Finds environment variables that look like settings of trajseg but are not; otherwise a typo would go unnoticed."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points

from backend.settings import Settings
from trajseg.engines.registry import GROUP, engine_factory
from trajseg.engines.settings import SettingsFactory
from trajseg.errors import TrajSegError

PREFIX = "TRAJSEG_"
OTHERS = (
    # Read outside of Settings, because commands need them without the service.
    "TRAJSEG_OFFLINE",
    "TRAJSEG_WEIGHTS_DIR",
    # Used only by compose.yaml, which passes them on under other names.
    "TRAJSEG_USER",
    "TRAJSEG_PASSWORD",
    "TRAJSEG_BIND",
)
INSTEAD = {"TRAJSEG_ENGINE": "TRAJSEG_MODEL", "TRAJSEG_CHOOSER": "TRAJSEG_GROUNDED_CHOOSER"}
"""Common wrong names, and the right ones."""
CLOSE = 0.65
"""Minimum similarity for a suggestion, 0 to 1, without the common prefix."""


@dataclass(frozen=True)
class UnknownVariable:
    """A variable that is not a setting.

    Attributes:
        meant: known variables with similar names, most similar first; at most two.
    """

    name: str
    meant: tuple[str, ...]

    @property
    def words(self) -> str:
        """The problem; without the value, which may be a secret."""
        return f"{self.name} is set, but trajseg has no such setting and ignores it"

    @property
    def remedy(self) -> str:
        """What to do."""
        if self.meant:
            return f"Did you mean {' or '.join(self.meant)}?"
        return "docs/settings.md, docs/engines.md and docs/sam3-and-molmo2.md list all settings."


def unknown_variables(environ: Mapping[str, str] | None = None) -> list[UnknownVariable]:
    """Variables that start with TRAJSEG_ but are settings of neither the service nor an installed engine, by name.

    Variables that start with TRAJSEG_ and the name of a third-party engine's entry point are accepted.
    """
    environ = os.environ if environ is None else environ
    suspects = sorted(name for name, value in environ.items() if name.upper().startswith(PREFIX) and value)
    service = {
        str(field.validation_alias or f"{PREFIX}{name.upper()}") for name, field in Settings.model_fields.items()
    }
    suspects = [name for name in suspects if name.upper() not in service and name not in OTHERS]
    if not suspects:
        return []
    engines, foreign = _engine_variables()
    known = [*service, *OTHERS, *engines, *INSTEAD]
    return [
        UnknownVariable(name, _nearest(name, known))
        for name in suspects
        if name not in engines and not name.startswith(foreign)
    ]


def log_unknown_variables(log: logging.Logger) -> None:
    """Logs a warning for each unknown variable."""
    for variable in unknown_variables():
        log.warning("%s. %s", variable.words, variable.remedy)


def _nearest(name: str, known: list[str]) -> tuple[str, ...]:
    by_end = {one.removeprefix(PREFIX): one for one in known}
    near = [by_end[end] for end in get_close_matches(name.upper().removeprefix(PREFIX), by_end, n=2, cutoff=CLOSE)]
    return tuple(dict.fromkeys(INSTEAD.get(one, one) for one in near))


def _engine_variables() -> tuple[set[str], tuple[str, ...]]:
    """The variables of engines that declare them, and the prefixes of the other engines."""
    listed: set[str] = set()
    prefixes: list[str] = []
    for name in {point.name for point in entry_points(group=GROUP)}:
        try:
            factory = engine_factory(name)
        except TrajSegError:
            factory = None
        if isinstance(factory, SettingsFactory):
            listed |= set(factory.variables)
        else:
            prefixes.append(f"{PREFIX}{name.upper().replace('-', '_')}_")
    return listed, tuple(prefixes)
