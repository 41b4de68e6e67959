"""Engine settings: a frozen dataclass; each field is also an environment variable and an option of `load_engine`.

`SettingsFactory` turns them into an engine's entry point.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pkgutil import resolve_name
from typing import Any, Protocol, Self

from trajseg.engines.base import Engine, EngineSpec
from trajseg.engines.parts import check_parts
from trajseg.errors import InputError


class EngineSettings(Protocol):
    """What a settings class has besides its fields."""

    @classmethod
    def read(cls, options: Mapping[str, Any] | None = None) -> Self:
        """The settings from the environment, overridden by options. Raises InputError if one is invalid."""
        ...

    @property
    def spec(self) -> EngineSpec:
        """What an engine with these settings can do."""
        ...

    @property
    def parts(self) -> Mapping[str, str]:
        """The weights that it loads, folders or repositories, by the setting that names them."""
        ...


class SettingsFactory:
    """Loads an engine from the settings in the environment; its spec is read without loading anything.

    Args:
        settings: the settings class.
        prefix: of the environment variables, such as TRAJSEG_SAM3_.
        loader: "module:function" that creates the engine from settings and a device; imported only when needed.
    """

    def __init__(self, settings: type[EngineSettings], prefix: str, loader: str) -> None:
        self._settings, self._prefix, self._loader = settings, prefix, loader

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that the engine reads."""
        names = inspect.signature(self._settings).parameters
        return tuple(f"{self._prefix}{name.upper()}" for name in names)

    @property
    def spec(self) -> EngineSpec:
        """What the engine will be able to do. Raises InputError or CheckpointError if a setting is invalid."""
        return self._settings.read().spec

    def check(self, **options: Any) -> None:
        """Raises as loading does if a setting is invalid or weights are missing; loads nothing."""
        self._checked(options)

    def _checked(self, options: Mapping[str, Any]) -> EngineSettings:
        settings = self._settings.read(options)
        check_parts(settings.spec.name, self._prefix, settings.parts)
        return settings

    def __call__(self, device: str = "", **options: Any) -> Engine:
        """The engine.

        Args:
            device: torch's name; empty: the first GPU, else the CPU.
            options: fields of the settings; they override the environment.

        Raises:
            CheckpointError: the weights are not on this machine, or cannot be loaded.
            ImportError: a package is missing; load_engine names it.
            InputError: a setting is invalid.
        """
        settings = self._checked(options)
        engine: Engine = resolve_name(self._loader)(settings, device)
        return engine


def given_settings(
    kind: type, engine: str, prefix: str, options: Mapping[str, Any] | None, environ: Mapping[str, str] | None
) -> dict[str, Any]:
    """The values set by the environment and then `options`, converted to the types of the fields' defaults.

    Args:
        kind: a dataclass whose fields all have defaults of str, int or float.
        engine: its name, for messages.
        prefix: of the variables, such as TRAJSEG_SAM3_. An empty variable counts as unset.

    Raises:
        InputError: the dataclass has no such option, or a value is not a number where one is needed.
    """
    environ = os.environ if environ is None else environ
    names = [field.name for field in fields(kind)]
    given: dict[str, Any] = {
        name: environ[prefix + name.upper()] for name in names if environ.get(prefix + name.upper())
    }
    given |= options or {}
    if unknown := sorted(set(given) - set(names)):
        raise InputError(f"The engine {engine} has no setting {unknown[0]}.", f"Its settings: {', '.join(names)}.")
    return {name: converted(kind, prefix, name, value) for name, value in given.items()}


def converted(kind: type, prefix: str, name: str, value: Any) -> Any:
    """A value in the type of the field's default; InputError if it is not a number, KeyError without such a field."""
    types: dict[str, Callable[[Any], Any]] = {field.name: type(field.default) for field in fields(kind)}
    try:
        return types[name](value)
    except (TypeError, ValueError) as error:
        wanted = "a whole number" if types[name] is int else "a number"
        raise InputError(f"{prefix}{name.upper()} is {value!r}.", f"Give {wanted}.") from error


def check_range(prefix: str, name: str, value: float, least: float, most: float) -> None:
    """Raises InputError if a value is out of range."""
    if not least <= value <= most:
        raise InputError(f"{prefix}{name.upper()} is {value}.", f"Give a number from {least} to {most}.")
