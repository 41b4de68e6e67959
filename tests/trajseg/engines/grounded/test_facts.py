"""Facts about a track: numbers in percent of the picture's height, and words."""

from __future__ import annotations

from math import cos, pi, sin

import pytest

from trajseg.engines.grounded.facts import scene_facts, track_facts


def test_a_track_that_moves_right_and_is_hidden_once() -> None:
    facts = track_facts([(0, 40, 20, 20), (40, 40, 20, 20), None, (120, 40, 20, 20)], height=200)
    assert facts.size == "10 x 10"
    assert facts.path == "5/25 25/25 - 65/25"
    assert facts.moved == "60 right 0 down"
    assert facts.way == "60"
    assert facts.reach == "60/0"


def test_bounce_has_a_path_length_but_no_displacement() -> None:
    facts = track_facts([(0, y, 10, 10) for y in (0, 40, 0, 40, 0)], height=100)
    assert (facts.moved, facts.way, facts.reach) == ("0 right 0 down", "160", "0/40")


def test_an_absent_object() -> None:
    assert track_facts([None, None], height=100).path == "- -"


def at(*places: tuple[float, float] | None) -> list[tuple[float, float, float, float] | None]:
    """Boxes of 10 x 10 around these centres."""
    return [None if place is None else (place[0] - 5, place[1] - 5, 10, 10) for place in places]


CIRCLE = [(50 + 15 * cos(turn), 50 + 15 * sin(turn)) for turn in (2 * pi * step / 8 for step in range(8))]


@pytest.mark.parametrize(
    ("places", "course"),
    [
        ([(20, 20), (22, 20), (19, 21), (21, 20)], "not moving"),
        ([(20, 20), (40, 22), None, (80, 25)], "moving right"),
        ([(80, 20), (60, 20), (40, 20)], "moving left"),
        ([(20, 80), (30, 60), (40, 40)], "moving up and right"),
        ([(20, 20), (22, 50), (20, 90)], "moving down"),
        (CIRCLE, "moving in a circle"),
        (CIRCLE[::-1], "moving in a circle"),
        ([(50, 20), (52, 60), (54, 20), (56, 60), (58, 20)], "moving up and down"),
        ([(20, 50), (70, 50), (20, 52), (70, 50), (25, 50)], "moving left and right"),
    ],
)
def test_motion_in_words(places: list[tuple[float, float] | None], course: str) -> None:
    assert track_facts(at(*places), height=100).course == course


def test_large_object_that_sways_slightly_does_not_move() -> None:
    swaying = [(20.0, 20.0, 60.0, 60.0), (31.0, 20.0, 60.0, 60.0), (20.0, 20.0, 60.0, 60.0)]
    assert track_facts(swaying, height=100).course == "not moving"


def test_visibility_in_words() -> None:
    here = (50.0, 50.0)
    for places, seen in (
        ([here] * 6, "there from start to end"),
        ([None, here, here, here, here, None], "there from start to end"),
        ([None, None, here, here, here, here], "not there at the start"),
        ([here, here, here, here, None, None], "gone at the end"),
        ([None, None, here, here, None, None], "not there at the start, gone at the end"),
    ):
        assert track_facts(at(*places), height=100).seen == seen


def test_candidates_are_ranked_from_each_side_at_the_first_moment() -> None:
    facts = scene_facts([at((50, 20), (5, 5)), at((10, 70), (90, 1)), at(None, (30, 30)), at((70, 40))], height=100)
    assert [one.left for one in facts] == ["2", "1", "-", "3"]
    assert [one.right for one in facts] == ["2", "3", "-", "1"]
    assert [one.top for one in facts] == ["1", "3", "-", "2"]
    assert [one.bottom for one in facts] == ["3", "1", "-", "2"]


def test_outermost_candidates_include_one_missed_at_the_first_moment() -> None:
    tracks = [at((50, 20), (50, 20)), at(None, (10, 70)), at(None, None, (1, 1)), at((40, 40), (99, 99))]
    facts = scene_facts(tracks, height=100)
    assert [one.outermost for one in facts] == ["rightmost topmost", "leftmost bottommost", "-", "-"]
    assert scene_facts([at((50, 20))], height=100)[0].outermost == "-"
