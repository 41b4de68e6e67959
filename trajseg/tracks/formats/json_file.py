"""A JSON file that grows item by item without growing in memory."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from trajseg.files import whole_file

BLOCK = 1 << 16
"""Characters copied at once."""


@dataclass
class JsonFile:
    """A JSON object of lists or objects that grow item by item: spooled to disk, assembled at the end.

    Args:
        fixed: members known from the start.
    """

    fixed: dict[str, Any] = field(default_factory=dict)
    _spools: dict[str, tuple[IO[str], str]] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

    def append(self, section: str, item: Any) -> int:
        """Adds an item to the list `section`; returns the new length."""
        return self._write(section, "[]", json.dumps(item, ensure_ascii=False))

    def put(self, section: str, key: str, value: Any) -> int:
        """Adds a member to the object `section`, or to the file's top-level object if `section` is empty."""
        return self._write(section, "{}", f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")

    def section(self, name: str, brackets: str) -> None:
        """Creates a section if it does not exist: `brackets` is "[]" or "{}"."""
        if name not in self._spools:
            self._spools[name] = tempfile.TemporaryFile("w+", encoding="utf-8"), brackets  # noqa: SIM115
            self._counts[name] = 0

    def count(self, section: str) -> int:
        """Number of items in a section."""
        return self._counts.get(section, 0)

    def save(self, path: Path) -> None:
        """Writes the file atomically and deletes the spools."""
        with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
            file.write("{")
            members = [
                f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in self.fixed.items()
            ]
            file.write(", ".join(members))
            for number, (name, (spool, brackets)) in enumerate(self._spools.items()):
                file.write(", " if members or number else "")
                file.write(f"{json.dumps(name)}: {brackets[0]}" if name else "")
                spool.seek(0)
                while block := spool.read(BLOCK):
                    file.write(block)
                file.write(brackets[1] if name else "")
            file.write("}\n")
        for spool, _ in self._spools.values():
            spool.close()
        self._spools.clear()

    def _write(self, section: str, brackets: str, text: str) -> int:
        self.section(section, brackets)
        spool, _ = self._spools[section]
        spool.write(f",\n{text}" if self._counts[section] else text)
        self._counts[section] += 1
        return self._counts[section]
