"""Numbers with their noun."""

from __future__ import annotations

import pytest

from trajseg.words import counted


@pytest.mark.parametrize(("number", "words"), [(0, "0 tasks"), (1, "1 task"), (2, "2 tasks"), (12_000, "12000 tasks")])
def test_only_one_is_singular(number: int, words: str) -> None:
    assert counted(number, "task") == words


def test_an_irregular_plural_is_given() -> None:
    assert counted(0, "delivery", "deliveries") == "0 deliveries"
    assert counted(1, "delivery", "deliveries") == "1 delivery"
