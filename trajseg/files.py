"""Atomic, durable writes of files and folders, content hashes, and printable file names."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
"""Error numbers of a full or read-only disk, an exceeded quota or limit on files, and a folder of another user."""


@contextmanager
def whole_file(path: str | os.PathLike[str], durable: bool = True) -> Iterator[Path]:
    """Yields a path to write to; it replaces `path` at the end of the block, and is deleted if the block raises.

    The path is in the same folder (created if missing) and has the same suffix, because writers derive the format from
    it. After a power cut, `path` has its old content or the new one.

    Args:
        durable: False for many small files that can be made again: waiting for the disk takes about 20 ms per file.
            After a power cut such a file may be empty.
    """
    final = Path(path)
    _make_folder(final.parent)
    unfinished = final.with_name(f".{secrets.token_hex(6)}.part{final.suffix}")
    try:
        yield unfinished
        if durable:
            _sync(unfinished)
        os.replace(unfinished, final)
        if durable:
            _sync(final.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def content_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields an empty folder to fill; it replaces `path` at the end of the block, and is deleted if the block raises.

    After a power cut or a kill, `path` is complete or missing. One process at a time writes the same `path`; what a
    killed one left is deleted by the next.
    """
    final = Path(path)
    unfinished, replaced = (final.with_name(f".{final.name}.{word}") for word in ("part", "old"))

    def tidy() -> None:
        if replaced.exists() and not final.exists():
            os.replace(replaced, final)
        for left_over in (unfinished, replaced):
            shutil.rmtree(left_over, ignore_errors=True)

    tidy()
    _make_folder(unfinished)
    try:
        yield unfinished
        for folder, _, names in os.walk(unfinished):
            for name in names:
                _sync(Path(folder, name))
            _sync(Path(folder))
        if final.exists():
            # Only an empty folder can be replaced in one step.
            os.replace(final, replaced)
        os.replace(unfinished, final)
        _sync(final.parent)
    finally:
        tidy()


def copy_whole(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copies a file's content; the copy appears only when complete."""
    with whole_file(target) as unfinished:
        shutil.copyfile(source, unfinished)


def not_writable(error: BaseException) -> str:
    """The reason if an error, or one that caused it, says that a disk or folder cannot be written; else empty.

    Libraries may hide an error of the operating system behind one of their own.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in NOT_WRITABLE:
            return os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return ""


def _make_folder(folder: Path) -> None:
    """Creates a folder with missing parents, whose entries survive a power cut."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(path: Path) -> None:
    """Waits until a file's content, or a folder's entries, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


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


def write_json(path: str | os.PathLike[str], value: Any, durable: bool = True) -> None:
    """Writes `value` as JSON, indented by one; the file appears only when complete. `durable` as for `whole_file`."""
    with whole_file(path, durable) as unfinished:
        unfinished.write_text(json.dumps(value, indent=1), encoding="utf-8")
