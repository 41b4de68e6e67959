"""Files and folders that only their owner may read: the store, key frames, downloads, secrets."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

KEPT = ("media", "downloads", "training", "models", "valkey", "secret_key", "api_token", "trajseg.db")
"""What lies in a data folder, as far as it is nobody else's business."""
FOLDER_MODE = 0o700
FILE_MODE = 0o600


def private_folder(path: Path) -> Path:
    """Make a folder, missing parents too, that only its owner may enter; one that is there keeps its mode."""
    if not path.is_dir():
        private_folder(path.parent)
        path.mkdir(exist_ok=True, mode=FOLDER_MODE)
    return path


def private_file(path: Path) -> Path:
    """Make an empty file that only its owner may read, where there is none; then as `tighten`."""
    private_folder(path.parent)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE))
    tighten(path)
    return path


def tighten(path: Path) -> None:
    """Take a file or folder of ours from group and others, where an earlier version left it open to them.

    Nothing happens where it is not there, or belongs to somebody else.
    """
    with suppress(OSError):
        mode = path.stat().st_mode
        if mode & 0o077:
            path.chmod(mode & 0o700)


def tighten_all(data_dir: Path) -> None:
    """`tighten` everything in a data folder that an earlier version made."""
    for name in KEPT:
        tighten(data_dir / name)
    for side_file in data_dir.glob("trajseg.db-*"):
        tighten(side_file)


def private_umask() -> None:
    """Whatever this process makes from now on is its owner's alone."""
    os.umask(0o077)
