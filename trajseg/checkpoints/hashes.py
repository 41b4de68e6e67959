"""Recorded hashes: the SHA-256 of every downloaded file, recorded once and compared from then on.

The catalogue cannot pin hashes that could not be looked up, but later files can be compared with the first download.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from trajseg.checkpoints.catalogue import Weights
from trajseg.checkpoints.places import weights_home
from trajseg.errors import CheckpointError
from trajseg.files import content_hash, write_json


def noted(weights: Weights, folder: Path) -> dict[str, str]:
    """The recorded SHA-256 by file for this commit of the weights; empty if nothing was recorded.

    Raises:
        CheckpointError: the record cannot be read.
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
    """Records the hashes of all files in a folder, reading all of them. Returns the record's path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): content_hash(path) for path in paths}
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
    """The path of the record: the hub's cache names a folder by its commit."""
    name = (weights.repository or weights.name).replace("/", "--")
    return weights_home() / "hashes" / f"{name}@{folder.name}.json"
