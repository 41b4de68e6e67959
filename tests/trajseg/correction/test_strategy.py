"""The contract of review strategies, for the shipped ones and the example in docs/extending.md."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

import trajseg.correction.strategy as strategies
from tests.contracts.strategy import StrategyContract, moving_square
from trajseg.correction.strategy import STRATEGIES, Evidence, ReviewStrategy, load_strategy
from trajseg.errors import InputError

ROOT = Path(__file__).parents[3]


class TestDoubt(StrategyContract):
    @pytest.fixture
    def strategy(self) -> ReviewStrategy:
        return load_strategy("doubt")


class TestEven(StrategyContract):
    @pytest.fixture
    def strategy(self) -> ReviewStrategy:
        return load_strategy("even")


class TestTheExample(StrategyContract):
    @pytest.fixture
    def strategy(self, monkeypatch: pytest.MonkeyPatch) -> ReviewStrategy:
        page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
        section = page.split("## A way to choose the frames to look at\n")[1].split("\n## ")[0]
        code = re.findall(r"   ```python\n(.*?)   ```", section, re.DOTALL)[0]
        module = types.ModuleType("trajseg.correction.lowest_score")
        exec("\n".join(line.removeprefix("   ") for line in code.splitlines()), module.__dict__)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        named = {**STRATEGIES, "lowest-score": "trajseg.correction.lowest_score:LowestScoreStrategy"}
        monkeypatch.setattr(strategies, "STRATEGIES", named)
        return load_strategy("lowest-score")


def test_even_frames_are_evenly_spaced_among_those_that_nobody_painted() -> None:
    assert [one.index for one in load_strategy("even").suggest(moving_square(), 3)] == [5, 15, 25]
    free = load_strategy("even").suggest(moving_square(), 2, Evidence(painted=range(10, 30)))
    assert [one.index for one in free] == [2, 7]


def test_a_strategy_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(InputError, match="wisdom") as caught:
        load_strategy("wisdom")
    assert "doubt, even" in caught.value.remedy
