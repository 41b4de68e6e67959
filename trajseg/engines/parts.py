"""Finds the weights that an engine's settings name: folders, or repositories in the hub's cache. Loads no torch.

Downloads nothing: a model may have 20 GB, so only `trajseg weights get`, which shows the size, may download it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from trajseg.checkpoints.catalogue import FREE_ENGINE, Weights, of_repository
from trajseg.checkpoints.download import location
from trajseg.checkpoints.folders import SHIPPED
from trajseg.checkpoints.places import offline
from trajseg.errors import CheckpointError

REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w.-]+(@[\w./-]+)?")
"""The owner and the name of a repository on the hub, and the revision that it is pinned to."""


def check_parts(engine: str, prefix: str, parts: Mapping[str, str]) -> None:
    """Raises CheckpointError, for all of an engine's weights at once, if some are not on this machine.

    Args:
        engine: its name in `trajseg weights get`.
        prefix: of its environment variables, such as TRAJSEG_SAM3_.
        parts: the weights by the setting that names them: a path, a built-in checkpoint, or a repository
            "owner/name@revision".
    """
    absent: dict[str, Weights] = {}
    for setting, name in parts.items():
        if local_path(name) is not None:
            continue
        variable = f"{prefix}{setting.upper()}"
        if not REPOSITORY.fullmatch(name):
            raise CheckpointError(
                f"{variable}: there is no file or folder {name}.",
                "Name a folder on this machine, or a repository as owner/name.",
            )
        weights = of_repository(name, setting)
        if location(weights) is None:
            absent[variable] = weights
    if absent:
        raise CheckpointError(_words([*absent.values()]), _remedy(engine, absent))


def weights_path(name: str, part: str) -> Path:
    """The folder (or file) of weights that `check_parts` has found: a path, a built-in checkpoint, or a repository.

    Args:
        part: what they are for, as in the catalogue: detector, tracker, chooser, weights.

    Raises:
        CheckpointError: they are not on this machine.
    """
    path = local_path(name) or location(of_repository(name, part))
    if path is None:
        raise CheckpointError(f"The weights {name} are not on this machine.", "See `trajseg weights list`.")
    return path


def local_path(name: str) -> Path | None:
    """The file, folder or built-in checkpoint with this name; None if it can only be a repository."""
    if (path := Path(name).expanduser()).exists():
        return path
    return SHIPPED / name if (SHIPPED / name / "config.json").is_file() else None


def _words(absent: list[Weights]) -> str:
    names = ", ".join(f"{part.repository}{f'@{part.revision}' if part.revision else ''}" for part in absent)
    size = sum(part.disk_gb for part in absent)
    about = f" (about {size:.1f} GB)" if all(part.disk_gb for part in absent) else ""
    return f"The weights {names}{about} are not on this machine."


def _remedy(engine: str, absent: Mapping[str, Weights]) -> str:
    one = len(absent) == 1
    folders = f"{'its folder' if one else 'their folders'} in {', '.join(absent)}"
    if offline():
        return f"Offline mode is on: copy {'it' if one else 'them'} here and name {folders}."
    get = f"un `trajseg weights get {engine}`: it shows the size and asks first. Or name {folders}."
    gated = next((part for part in absent.values() if part.gated), None)
    if gated is None:
        return f"R{get}"
    return (
        f"Request access at {gated.card} and set HF_TOKEN, then r{get} "
        f"The engine {FREE_ENGINE} needs no permission: TRAJSEG_MODEL={FREE_ENGINE}."
    )
