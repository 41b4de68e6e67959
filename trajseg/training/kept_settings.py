"""The settings of a training, kept in its folder: a resumed training must have the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trajseg.errors import InputError
from trajseg.files import write_json

RECIPE = "recipe.json"
NOTHING: Mapping[str, Any] = MappingProxyType({})


def keep_settings(folder: Path, settings: Mapping[str, Any], earlier: Mapping[str, Any] = NOTHING) -> None:
    """Stores the settings that a training was started with, or compares them with those stored.

    Args:
        folder: of the training.
        settings: all that its result depends on, as JSON.
        earlier: values of settings that trainings of earlier releases did not store.

    Raises:
        InputError: the folder has a training with other settings.
    """
    path, form = folder / RECIPE, json.loads(json.dumps(settings))
    if path.exists():
        stored = {**earlier, **json.loads(path.read_text(encoding="utf-8"))}
        if other := sorted(name for name in form if stored.get(name) != form[name]):
            raise InputError(
                f"{folder} has a training with another {', '.join(other)}.", "Use the same, or another --out."
            )
    write_json(path, form)
