"""Finds environment variables that look like settings of trajseg but are not; otherwise a typo would go unnoticed."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points

from trajseg.engines.registry import GROUP, engine_factory
from trajseg.engines.settings import SettingsFactory
from trajseg.errors import TrajSegError

PREFIX = "TRAJSEG_"
SETTINGS = "trajseg.settings"
"""Entry points: a function that returns the names of the variables that a package reads."""
OTHERS = (
    # Read by the library itself.
    "TRAJSEG_OFFLINE",
    "TRAJSEG_WEIGHTS_DIR",
    # Used only by compose.yaml, which passes them on under other names.
    "TRAJSEG_USER",
    "TRAJSEG_PASSWORD",
    "TRAJSEG_BIND",
    # Read by the tests.
    "TRAJSEG_CHROMIUM",
    "TRAJSEG_FUZZ_CASES",
    "TRAJSEG_LABEL_STUDIO_ML_WHEEL",
    "TRAJSEG_TEST_POSTGRES_URL",
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

    Variables that start with TRAJSEG_ and the name of a third-party engine's entry point are accepted. If no installed
    package declares the service's settings, the list is empty.
    """
    environ = os.environ if environ is None else environ
    suspects = sorted(name for name, value in environ.items() if name.upper().startswith(PREFIX) and value)
    suspects = [name for name in suspects if name not in OTHERS]
    # Reading the service's settings takes a moment that most commands need not spend.
    service = _service_variables() if suspects else set()
    suspects = [name for name in suspects if name.upper() not in service]
    if not suspects or not service:
        return []
    engines, foreign = _engine_variables()
    known = [*service, *OTHERS, *engines, *INSTEAD]
    return [
        UnknownVariable(name, _nearest(name, known))
        for name in suspects
        if name not in engines and not name.startswith(foreign)
    ]


def log_unknown_variables(log: logging.Logger) -> None:
    """Logs a warning for each unknown variable: for hosts of the backend other than the command line, which warns."""
    for variable in unknown_variables():
        log.warning("%s. %s", variable.words, variable.remedy)


def _nearest(name: str, known: list[str]) -> tuple[str, ...]:
    by_end = {one.removeprefix(PREFIX): one for one in known}
    near = [by_end[end] for end in get_close_matches(name.upper().removeprefix(PREFIX), by_end, n=2, cutoff=CLOSE)]
    return tuple(dict.fromkeys(INSTEAD.get(one, one) for one in near))


def _service_variables() -> set[str]:
    """The variables that installed packages declare as their settings."""
    return {name for point in entry_points(group=SETTINGS) for name in point.load()()}


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
