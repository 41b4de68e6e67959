"""Noted hashes: the SHA-256 of every file of fetched weights, written down once and compared ever after.

The catalogue cannot pin hashes that nobody could look up; but later files can be compared with the first download.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

from trajseg.checkpoints.catalogue import Weights
from trajseg.checkpoints.places import weights_home
from trajseg.errors import CheckpointError
from trajseg.files import write_json


def noted(weights: Weights, folder: Path) -> dict[str, str]:
    """SHA-256 by file, as they were noted of this commit of the weights; empty where nothing was noted.

    Raises:
        CheckpointError: the note cannot be read.
    """
    path = place(weights, folder)
    if not path.is_file():
        return {}
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {str(name): str(value) for name, value in files.items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", "Delete it: the next check writes it.") from error


def note(weights: Weights, folder: Path) -> Path:
    """Write down the hashes of all files of a folder; reads all of them. Returns the note."""
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    path = place(weights, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        path,
        {
            "weights": weights.name,
            "repository": weights.repository,
            "commit": folder.name,
            "noted_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "files": files,
        },
    )
    return path


def place(weights: Weights, folder: Path) -> Path:
    """Where the note lies: the hub's cache names a folder by its commit."""
    name = (weights.repository or weights.name).replace("/", "--")
    return weights_home() / "hashes" / f"{name}@{folder.name}.json"


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
