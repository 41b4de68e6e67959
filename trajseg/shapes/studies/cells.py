"""Cells: the units that a study measures, each saved to a file, so that an interrupted run can resume."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trajseg.files import whole_file

Json = dict[str, Any]


class Cells:
    """Measured cells in `folder`, one JSON file each.

    A cell is identified by its name and its settings.

    Args:
        say: called when a cell is measured.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda _: None) -> None:
        self.folder = folder
        self.say = say

    def measured(self, name: str, settings: Json, measure: Callable[[], Json]) -> Json:
        """The figures of a cell, from its file or from `measure`, whose result is saved.

        Args:
            name: for people; valid as a file name.
            settings: everything that the figures depend on; serialisable as JSON.
        """
        path = self.path(name, settings)
        if path.exists():
            figures: Json = json.loads(path.read_text(encoding="utf-8"))["figures"]
            return figures
        self.say(f"{name} ...")
        wall, processor = time.perf_counter(), time.process_time()
        figures = measure()
        spent = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
        kept = {"name": name, "settings": settings, **spent, "figures": figures}
        with whole_file(path) as unfinished:
            unfinished.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        self.say(f"{name}: {spent['seconds']:.0f} s ({spent['processor_seconds']:.0f} s of the processor)")
        return figures

    def path(self, name: str, settings: Json) -> Path:
        """The file of a cell; its stem also names a folder for this cell only."""
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        return self.folder / f"{name}-{digest}.json"
