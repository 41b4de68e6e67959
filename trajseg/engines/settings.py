"""Settings of an engine: a frozen dataclass, each field also an environment variable and an option of `load_engine`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from trajseg.errors import InputError


def given_settings(
    kind: type, engine: str, prefix: str, options: Mapping[str, Any] | None, environ: Mapping[str, str] | None
) -> dict[str, Any]:
    """The values that the environment and then `options` set, converted to the types of the fields' defaults.

    Args:
        kind: a dataclass whose fields all have defaults of str, int or float.
        engine: its name, for messages.
        prefix: of the variables, such as TRAJSEG_SAM3_. A variable that is empty is not set.

    Raises:
        InputError: an option that the dataclass lacks, or a value that is no number where one is needed.
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
    """A value in the type of the field's default; InputError where it is no number, KeyError without such a field."""
    types: dict[str, Callable[[Any], Any]] = {field.name: type(field.default) for field in fields(kind)}
    try:
        return types[name](value)
    except (TypeError, ValueError) as error:
        wanted = "a whole number" if types[name] is int else "a number"
        raise InputError(f"{prefix}{name.upper()} is {value!r}.", f"Give {wanted}.") from error


def check_range(prefix: str, name: str, value: float, least: float, most: float) -> None:
    """Raises InputError where a value is out of range."""
    if not least <= value <= most:
        raise InputError(f"{prefix}{name.upper()} is {value}.", f"Give a number from {least} to {most}.")
