"""Files and folders that only their owner may read: the store, shown frames, downloads, secrets."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

KEPT = ("media", "downloads", "training", "models", "valkey", "secret_key", "api_token", "trajseg.db")
"""Contents of a data folder that must be private."""
FOLDER_MODE = 0o700
FILE_MODE = 0o600


def private_folder(path: Path) -> Path:
    """Creates a folder, with missing parents, that only its owner may enter; an existing one keeps its mode."""
    if not path.is_dir():
        private_folder(path.parent)
        path.mkdir(exist_ok=True, mode=FOLDER_MODE)
    return path


def private_file(path: Path) -> Path:
    """Creates an empty file that only its owner may read, if there is none; then `tighten`s it."""
    private_folder(path.parent)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE))
    tighten(path)
    return path


def tighten(path: Path) -> None:
    """Removes group and other access to a file or folder of ours that an earlier version left open.

    Does nothing if it does not exist or belongs to another user.
    """
    with suppress(OSError):
        mode = path.stat().st_mode
        if mode & 0o077:
            path.chmod(mode & 0o700)


def tighten_all(data_dir: Path) -> None:
    """`tighten`s everything that an earlier version created in a data folder."""
    for name in KEPT:
        tighten(data_dir / name)
    for side_file in data_dir.glob("trajseg.db-*"):
        tighten(side_file)


def private_umask() -> None:
    """Everything this process creates from now on is private to its owner."""
    os.umask(0o077)
