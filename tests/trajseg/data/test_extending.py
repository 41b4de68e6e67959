"""The example data set of docs/extending.md fulfils the contract and can be opened by name."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

import trajseg.data.registry as registry
from tests.contracts.dataset import DatasetContract
from trajseg.data.dataset import Dataset
from trajseg.data.registry import DatasetEntry, DatasetOptions, open_dataset
from trajseg.errors import InputError

ROOT = Path(__file__).parents[3]


def blocks() -> list[str]:
    """The code of the section, without its indentation."""
    section = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8").split("## A data set\n")[1].split("\n## ")[0]
    found = re.findall(r"   ```python\n(.*?)   ```", section, re.DOTALL)
    return ["\n".join(line.removeprefix("   ") for line in block.splitlines()) for block in found]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("trajseg.data.captioned_folders")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(blocks()[0], "captioned_folders.py", "exec"), module.__dict__)
    entry = eval(blocks()[1], {"DatasetEntry": DatasetEntry})
    monkeypatch.setattr(registry, "DATASETS", {**registry.DATASETS, "captioned-folders": entry})
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for clip in ("first", "second"):
        for name in ("pictures", "masks"):
            (tmp_path / clip / name).mkdir(parents=True)
        for frame in range(6):
            mask = np.zeros((48, 64), np.uint8)
            mask[10:30, 8 + frame : 28 + frame] = 255
            picture = rng.integers(0, 90, (48, 64, 3), np.uint8) + mask[..., None] // 2
            cv2.imwrite(str(tmp_path / clip / "pictures" / f"{frame:05d}.jpg"), picture)
            cv2.imwrite(str(tmp_path / clip / "masks" / f"{frame:05d}.png"), mask)
        (tmp_path / clip / "caption.txt").write_text("the bright box")
    return tmp_path


class TestTheExampleDataset(DatasetContract):
    @pytest.fixture
    def dataset(self, example: types.ModuleType, folder: Path) -> Dataset:
        return open_dataset(f"captioned-folders:{folder}")


def test_example_rejects_invalid_options(example: types.ModuleType, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no --height"):
        open_dataset(f"captioned-folders:{folder}", DatasetOptions(height=100))
    with pytest.raises(InputError, match="has no clips"):
        open_dataset(f"captioned-folders:{tmp_path / 'first'}")
