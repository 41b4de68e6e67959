"""Plugins: classes by name, our own and those of entry points in other packages."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from trajseg.errors import InputError


def named_class(what: str, name: str, own: Mapping[str, str], group: str) -> Any:
    """The class with this name; other packages cannot replace our own.

    Args:
        what: the kind of thing, for messages, such as "review strategy".
        own: "module:class" by name.
        group: of entry points.

    Raises:
        InputError: there is no such class, or it cannot be imported.
    """
    known = {**{point.name: point.value for point in entry_points(group=group)}, **own}
    if name not in known:
        raise InputError(f"There is no {what} {name!r}.", f"Known are: {', '.join(sorted(known))}.")
    module, _, attribute = known[name].partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"The {what} {name} cannot be imported ({error}).", "Install its package, or name another one."
        ) from error
