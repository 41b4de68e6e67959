"""Where a fetched video lies in the data folder: the worker puts it there, the jobs page plays it from there."""

from __future__ import annotations

import hashlib
from pathlib import Path


def download_folder(cache: Path, url: str) -> Path:
    """The folder of `cache` that holds what an absolute address gave: the file `video` and its suffix."""
    return cache / hashlib.sha256(url.encode()).hexdigest()[:32]
