"""The export format in docs/extending.md works as written."""

from __future__ import annotations

import csv
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

from tests.contracts.track_format import labelled
from trajseg.tracks.formats import export, load_format
from trajseg.tracks.formats.registry import FORMATS

PAGE = Path(__file__).parents[4] / "docs" / "extending.md"


def code() -> dict[str, str]:
    """The section's code by the path in its first line."""
    section = PAGE.read_text(encoding="utf-8").split("## An export format\n")[1].split("\n## ")[0]
    blocks = (textwrap.dedent(block) for block in re.findall(r"^ *```python\n(.*?)^ *```", section, re.S | re.M))
    return {block.splitlines()[0].removeprefix("# "): block for block in blocks}


def test_the_example_writes_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = code()
    module = ModuleType("trajseg.tracks.formats.boxes_csv")
    exec(written["trajseg/tracks/formats/boxes_csv.py"], vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name, place in eval(written["trajseg/tracks/formats/registry.py"].split("\n", 1)[1]).items():
        monkeypatch.setitem(FORMATS, name, place)
    export([labelled("task-1", None)], load_format("boxes-csv"), tmp_path / "out", pictures=False)
    with (tmp_path / "out" / "task-1.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["label"] for line in lines] == ["track-1"] * 4 + ["track-2"] * 4 + ["track-3"] * 2
    assert lines[1] == {"frame": "1", "label": "track-1", "x": "4.0", "y": "4.0", "width": "12.0", "height": "10.0"}
    assert lines[-1]["frame"] == "3"
