"""Atomic file writes, content hashes, and printable file names."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a path to write to; it replaces `path` at the end of the block, and is deleted if the block raises.

    The path is in the same folder (created if missing) and has the same suffix, because writers derive the format from
    it.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    unfinished = final.with_name(f".{secrets.token_hex(6)}.part{final.suffix}")
    try:
        yield unfinished
        os.replace(unfinished, final)
    finally:
        unfinished.unlink(missing_ok=True)


def content_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def printable(text: str) -> str:
    """The text with every lone surrogate escaped, so that it can be encoded as UTF-8.

    Python decodes a byte of a file name that is not UTF-8 as a lone surrogate, which becomes `\\xff` here; half of an
    emoji from JSON becomes `\\ud83d`.
    """
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return "".join(_escaped(letter) if "\ud800" <= letter <= "\udfff" else letter for letter in text)


def _escaped(surrogate: str) -> str:
    code = ord(surrogate)
    # os.fsdecode maps the bytes 0x80 to 0xff to 0xdc80 to 0xdcff.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as JSON, indented by one; the file appears only when complete."""
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(value, indent=1), encoding="utf-8")
