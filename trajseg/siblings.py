"""The packages installed beside this one, whose names other packages may also use."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

PACKAGES = ("backend", "worker", "label_config")
BESIDE = Path(__file__).resolve().parents[1]


class SiblingFinder(MetaPathFinder):
    """Finds PACKAGES beside trajseg, even if the current folder or PYTHONPATH has packages with these names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The package's spec; None for all other modules, and if it is not installed."""
        return PathFinder.find_spec(fullname, [str(BESIDE)]) if fullname in PACKAGES else None


def prefer_siblings() -> None:
    """From now on, PACKAGES are imported from beside trajseg. Our programs call it; a library must not."""
    if not any(isinstance(finder, SiblingFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, SiblingFinder())


def stranger(package: str) -> str:
    """The location of a package with this name, if it is not the one installed beside trajseg."""
    spec = find_spec(package)
    places = [Path(place).resolve() for place in (spec.submodule_search_locations or ())] if spec else []
    return "" if not places or BESIDE / package in places else str(places[0])
