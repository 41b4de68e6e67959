"""Our packages are imported from beside trajseg, and no other import changes."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from trajseg.siblings import PACKAGES, SiblingFinder, prefer_siblings


def test_other_modules_are_found_and_caches_dropped_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    prefer_siblings()
    prefer_siblings()
    assert sum(isinstance(finder, SiblingFinder) for finder in sys.meta_path) == 1
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "somebodys_module.py").write_text("VALUE = 3\n")
    importlib.invalidate_caches()
    assert importlib.import_module("somebodys_module").VALUE == 3


@pytest.mark.parametrize("package", PACKAGES)
def test_our_packages_come_from_beside_trajseg(package: str) -> None:
    spec = SiblingFinder().find_spec(package)
    assert spec is not None
    assert list(spec.submodule_search_locations or ()) == [str(Path(__file__).parents[2] / package)]
    assert SiblingFinder().find_spec("json") is None
