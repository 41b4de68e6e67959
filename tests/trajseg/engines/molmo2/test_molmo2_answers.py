"""The grammar of Molmo2's answers, and its parser on everything else that a model may write."""

from __future__ import annotations

import pytest

from trajseg.engines.molmo2.answers import NONE, Point, frame_points, read_points, track_grammar
from trajseg.errors import TrajSegError
from trajseg.video.frame_map import FrameMap

TWO = '<tracks coords="0.0 1 452 310 2 120 733;0.5 1 460 312">the two dogs</tracks>'


@pytest.mark.parametrize(
    "answer",
    [
        NONE,
        TWO,
        '<tracks coords="0.0 1 004 1000\t12.5 1 1 2"></tracks>',
        '<tracks coords="0.0 12 452 310">der Große</tracks>',
    ],
)
def test_the_grammar_has_the_answers_of_the_published_format(answer: str) -> None:
    grammar = track_grammar()
    assert grammar.is_whole(answer)
    assert all(grammar.can_go_on(answer[:end]) for end in range(len(answer)))
    assert read_points(answer).faults == ()


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "There are none",
        '<tracks coords="">x</tracks>',
        '<tracks coords="0.0">x</tracks>',
        '<tracks coords="0.0 1 452">x</tracks>',
        '<tracks coords="0.0 1 452 -3">x</tracks>',
        '<tracks coords="nan 1 452 3">x</tracks>',
        '<tracks coords="0.0 1 452 310;">x</tracks>',
        '<tracks coords="0.0 1 452 310"><b>x</b></tracks>',
        '<points coords="0.0 1 452 310">x</points>',
        TWO + TWO,
    ],
)
def test_the_grammar_has_nothing_else(answer: str) -> None:
    assert not track_grammar().is_whole(answer)


def test_objects_keep_their_numbers_over_time() -> None:
    answer = read_points(TWO)
    assert answer.tracks == {1: (Point(0.0, 0.452, 0.31), Point(0.5, 0.46, 0.312)), 2: (Point(0.0, 0.12, 0.733),)}
    assert answer.label == "the two dogs"
    assert answer.faults == ()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        pytest.param(f"Counting the {TWO} shows a total of 2.", TWO, id="words around it"),
        pytest.param(TWO.replace(";", "\t"), TWO, id="tabs"),
        pytest.param(TWO.replace(";", "; "), TWO, id="blanks after semicolons"),
        pytest.param(TWO.replace(";", ","), TWO, id="commas"),
        pytest.param(TWO.replace(";", "\n"), TWO, id="lines"),
        pytest.param(TWO.replace('">the', ';">the'), TWO, id="a semicolon at the end"),
        pytest.param(TWO.replace('"', "'"), TWO, id="other quotation marks"),
        pytest.param(TWO.replace("0.0 ", "0.0: ").replace("0.5 ", "0.5: "), TWO, id="colons after the times"),
        pytest.param(TWO.replace("0.0 ", "0 "), TWO, id="whole seconds"),
        pytest.param(TWO.replace("452", "452.0"), TWO, id="decimals"),
        pytest.param(TWO.replace(" 1 452 310 2 120 733", " 2 120 733 1 452 310"), TWO, id="objects in another order"),
        pytest.param(TWO.replace("<tracks", '<tracks alt="dogs"'), TWO, id="another attribute"),
        pytest.param(TWO.replace("tracks", "points"), TWO, id="points"),
        pytest.param(TWO.upper().replace("THE TWO DOGS", "the two dogs"), TWO, id="capitals"),
        pytest.param(
            '<tracks coords="0.0 1 452 310 2 120 733">the two dogs</tracks><tracks coords="0.5 1 460 312"/>',
            TWO,
            id="two tags",
        ),
        pytest.param(
            '<tracks coords="0.5 1 460 312;0.0 1 452 310 2 120 733">the two dogs</tracks>', TWO, id="times that fall"
        ),
    ],
)
def test_odd_spellings_mean_the_same(written: str, meant: str) -> None:
    assert read_points(written) == read_points(meant)


@pytest.mark.parametrize(
    ("written", "left", "fault"),
    [
        pytest.param("0.0 1 452 310;0.5 1 460", '0.0 1 452 310"', "cut off", id="cut off in a point"),
        pytest.param("0.0 1 452 310;0.5 1 460 31", '0.0 1 452 310"', "cut off", id="cut off in a number"),
        pytest.param('0.0 1 452 310;0.5 1 460 312 2"', '0.0 1 452 310;0.5 1 460 312"', "1 numbers too many", id="odd"),
        pytest.param('0.0 1 452 310 2 1001 5"', '0.0 1 452 310"', "outside the picture", id="outside"),
        pytest.param('0.0 1 452 310 2 nan 5"', '0.0 1 452 310"', "cannot be read", id="not a number"),
        pytest.param('0.0 1 452 310 -2 20 5"', '0.0 1 452 310"', "cannot be read", id="a negative number"),
        pytest.param('0.0 1 452 310 1.5 20 5"', '0.0 1 452 310"', "cannot be read", id="half an object"),
        pytest.param('0.0 1 452 310 1 20 5"', '0.0 1 452 310"', "twice at 0 s", id="an object twice"),
        pytest.param('0.0 1 452 310;soon 1 20 5"', '0.0 1 452 310"', "moment 'soon", id="a time in words"),
        pytest.param('0.0 1 452 310;1e9 1 20 5"', '0.0 1 452 310"', "moment '1e9", id="a power of ten"),
        pytest.param('0.0 1 452 310;99999999 1 20 5"', '0.0 1 452 310"', "moment '99999999", id="no time of a video"),
        pytest.param('0.0 1 452 310;-1 1 20 5"', '0.0 1 452 310"', "moment '-1", id="before the clip"),
    ],
)
def test_what_cannot_be_read_is_left_out_and_noted(written: str, left: str, fault: str) -> None:
    answer = read_points(f'<tracks coords="{written}' + (">dog</tracks>" if written.endswith('"') else ""))
    assert answer.tracks == read_points(f'<tracks coords="{left}>dog</tracks>').tracks
    assert any(fault in one for one in answer.faults), answer.faults


@pytest.mark.parametrize(
    "answer",
    [NONE, "There is no such dog in the video.", '<tracks coords="">dog</tracks>', '<tracks coords="'],
)
def test_nothing_is_meant(answer: str) -> None:
    assert read_points(answer).tracks == {}


@pytest.mark.parametrize("answer", ["", "A dog runs over the grass.", "452 310", "<tracks>dog</tracks>"])
def test_an_answer_that_neither_points_nor_denies_is_an_error(answer: str) -> None:
    with pytest.raises(TrajSegError, match="without points"):
        read_points(answer)


def test_moments_are_the_shown_frames_and_else_the_frame_on_show() -> None:
    uneven = FrameMap((0.0, 0.04, 0.46, 0.5, 0.96), fps=25.0)
    answer = read_points('<tracks coords="0.0 1 0 0;0.5 1 500 500;0.7 1 250 250;1.0 1 1000 1000;9.0 1 1 1">x</tracks>')
    [track] = frame_points(answer, uneven, [0, 2, 4], 80, 40)
    # 0.46 was shown as 0.5; 0.7 was not shown; 0.96 was shown as 1.0, and its corner is the last pixel.
    assert track.points == {0: (0, 0), 2: (40, 20), 3: (20, 10), 4: (79, 39)}


def test_objects_with_the_most_points_come_first() -> None:
    steady = FrameMap.from_times(tuple(n / 10 for n in range(11)))
    answer = read_points('<tracks coords="0.0 1 9 9 2 5 5;0.5 2 5 5;99.0 3 1 1">x</tracks>')
    assert [track.number for track in frame_points(answer, steady, [0, 5, 10], 80, 40)] == [2, 1]
