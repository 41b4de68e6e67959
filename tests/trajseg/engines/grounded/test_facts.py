"""A track in numbers, in percent of the picture's height."""

from __future__ import annotations

from trajseg.engines.grounded.facts import track_facts


def test_a_track_that_moves_right_and_is_hidden_once() -> None:
    facts = track_facts([(0, 40, 20, 20), (40, 40, 20, 20), None, (120, 40, 20, 20)], height=200)
    assert facts.size == "10 x 10"
    assert facts.path == "5/25 25/25 - 65/25"
    assert facts.moved == "60 right 0 down"
    assert facts.way == "60"
    assert facts.reach == "60/0"


def test_a_bounce_has_a_way_but_moves_nowhere() -> None:
    facts = track_facts([(0, y, 10, 10) for y in (0, 40, 0, 40, 0)], height=100)
    assert (facts.moved, facts.way, facts.reach) == ("0 right 0 down", "160", "0/40")


def test_an_absent_object() -> None:
    assert track_facts([None, None], height=100).path == "- -"
