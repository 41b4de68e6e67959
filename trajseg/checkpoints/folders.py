"""Checkpoints as folders: built-in ones by name, all others by path; their configuration, and their fingerprint.
Loads no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from trajseg.checkpoints.catalogue import ENGINES
from trajseg.errors import CheckpointError

SHIPPED = Path(__file__).parent
OWN_DATA = ("replay_data", "base_set")
"""Keys of config.json that name the base's own data; see trajseg.checkpoints.own_data."""
ASSEMBLED = "assembled.json"
"""File in the folder of an assembled checkpoint that names the sources of its parts, and the untrained parts."""


def checkpoint_folder(name: str | Path) -> Path:
    """The folder of a built-in checkpoint, or the given folder itself.

    Raises:
        CheckpointError: there is no such folder.
    """
    folder = SHIPPED / name if (SHIPPED / name / "config.json").is_file() else Path(name)
    if not folder.is_dir():
        shipped = ", ".join(sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))) or "none"
        raise CheckpointError(
            f"There is no engine or checkpoint {name}.",
            f"Name a folder, a built-in checkpoint ({shipped}) or an engine ({', '.join(ENGINES)}).",
        )
    return folder


def checkpoint_config(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint; only checked to be an object.

    Raises:
        CheckpointError: there is none, or it is not JSON.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} is not a checkpoint: its config.json cannot be read ({error}).",
            "Name a folder in Hugging Face's form, with config.json and *.safetensors.",
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder}/config.json is not a JSON object.", "Name the folder of a checkpoint.")
    return config


def never_trained(folder: Path) -> list[str]:
    """The parts of an assembled checkpoint that hold random numbers, so that its masks and captions mean nothing."""
    try:
        parts = json.loads((folder / ASSEMBLED).read_text(encoding="utf-8"))["never_trained"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [str(part) for part in parts] if isinstance(parts, list) else []


def fingerprint(folder: Path) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a checkpoint's weights and configuration, as it serves."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("model*.safetensors"), *folder.glob("*.json")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
