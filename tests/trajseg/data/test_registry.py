"""Data sets by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trajseg.data.registry import DATASETS, open_dataset, open_source
from trajseg.errors import InputError


@pytest.mark.parametrize("opened", [open_dataset, open_source])
def test_unknown_name_lists_the_known_ones(opened: object) -> None:
    with pytest.raises(InputError, match="davis") as caught:
        opened("davis:val")  # type: ignore[operator]
    assert all(entry.usage in caught.value.remedy for entry in DATASETS.values())


def test_unknown_split_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="shapes:tets") as caught:
        open_dataset("shapes:tets")
    assert "shapes:test" in caught.value.remedy


def test_registry_imports_neither_shapes_nor_torch() -> None:
    code = (
        "import sys; from trajseg.data import registry; registry.known_datasets();"
        "print([m for m in sys.modules if m == 'torch' or m.startswith('trajseg.shapes')])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
