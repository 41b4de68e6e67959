"""Resolves attributes that refer to task data, like Label Studio's editor (its `parseValue`)."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

_REFERENCE = re.compile(r"\$[\w\[\].{}]+", re.ASCII)
_STEP = re.compile(r"[^.\[\]]+")
MISSING = object()
"""Returned by `lookup` for a path that does not exist."""


def is_reference(value: str) -> bool:
    """Whether the attribute is exactly one reference, such as `$video` or `$clips[0].url`."""
    return _REFERENCE.fullmatch(value) is not None


def paths(value: str) -> list[str]:
    """The paths an attribute refers to: `media.clip` for `$media.clip`, `name` for `https://host/$name`."""
    return [reference[1:] for reference in _REFERENCE.findall(value)]


def lookup(data: Any, path: str) -> Any:
    """The value at a path (`clip`, `media.clip`, `clips[0]`), or MISSING; a key equal to the whole path wins."""
    if isinstance(data, Mapping) and path in data:
        return data[path]
    value = data
    for step in _STEP.findall(path):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and re.fullmatch(r"0|[1-9][0-9]{0,8}", step) and int(step) < len(value):
            value = value[int(step)]
        else:
            return MISSING
    return value


def resolve(value: str, data: Mapping[str, Any]) -> Any:
    """The attribute's value for a task; None if task data lacks a part of it.

    A single reference returns the value with its type. References within a text are inserted as text, which is not
    possible for a list or an object.
    """
    if is_reference(value):
        found = lookup(data, value[1:])
        return None if found is MISSING else found
    parts = {path: lookup(data, path) for path in paths(value)}
    if any(part is MISSING or part is None or isinstance(part, list | dict) for part in parts.values()):
        return None
    return _REFERENCE.sub(lambda match: _as_text(parts[match[0][1:]]), value)


def assigned(data: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Task data with a value at a path; missing objects on the way are created.

    Raises KeyError for a path beyond a list's end or through something that is neither list nor object.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(data))
    steps = [path] if path in changed else _STEP.findall(path)
    place: Any = changed
    for number, step in enumerate(steps):
        last = number == len(steps) - 1
        if isinstance(place, list) and step.isdecimal() and int(step) < len(place):
            key: Any = int(step)
        elif isinstance(place, dict):
            key = step
        else:
            raise KeyError(path)
        if last:
            place[key] = value
        else:
            place = place.setdefault(key, {}) if isinstance(place, dict) else place[key]
    return changed


def _as_text(part: Any) -> str:
    if isinstance(part, bool):
        return "true" if part else "false"
    return str(int(part)) if isinstance(part, float) and part.is_integer() else str(part)
