"""What attributes refer to in task data, as Label Studio's editor resolves it."""

from __future__ import annotations

from typing import Any

import pytest

from label_config import parse
from label_config.values import assigned

DATA: dict[str, Any] = {
    "video": "a.mp4",
    "media": {"clip": "b.mp4", "rate": 30, "parts": [{"url": "c.mp4"}]},
    "clips": ["d.mp4", "e.mp4"],
    "name": "f",
    "number": 7,
    "whole": 7.0,
    "dotted.key": "g.mp4",
    "flag": True,
    "nothing": None,
}


def box(value: str, to_name: str = "v", more: str = "") -> str:
    return (
        f'<View><VideoRectangle name="box" toName="{to_name}"/>'
        f'<Labels name="l" toName="{to_name}"><Label value="x"/></Labels>'
        f'<Video name="v" value="{value}" frameRate="$media.rate"/>{more}</View>'
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("$video", "a.mp4"),
        ("$media.clip", "b.mp4"),
        ("$media.parts[0].url", "c.mp4"),
        ("$clips[0]", "d.mp4"),
        ("$clips.1", "e.mp4"),
        ("$dotted.key", "g.mp4"),
        ("$number", 7),
        ("$clips", ["d.mp4", "e.mp4"]),
        ("https://host/$name", "https://host/f"),
        ("https://host/$name/$clips[1]?n=$number", "https://host/f/e.mp4?n=7"),
        ("https://host/$whole-$flag", "https://host/7-true"),
        ("https://host/fixed.mp4", "https://host/fixed.mp4"),
        ("$gone", None),
        ("$media.gone", None),
        ("$clips[2]", None),
        ("$clips[01]", None),
        ("$clips[-1]", None),
        ("$media[clip]", "b.mp4"),
        ("${video}", None),
        ("$name-$number", "f-7"),
        ("$name$number", "f7"),
        (" $video", " a.mp4"),
        ("$my-video", None),
        ("https://host/$nothing", None),
        ("$video.clip", None),
        ("$nothing", None),
        ("https://host/$gone", None),
        # The editor reads the suffix as part of the path, and so do we.
        ("https://host/$name.mp4", None),
        ("https://host/$clips", None),
        ("https://host/$media", None),
    ],
)
def test_a_video_is_what_the_editor_opens(value: str, expected: object) -> None:
    assert parse(box(value)).video_of(DATA) == expected


def test_missing_parts_are_named() -> None:
    assert parse(box("https://host/$name/$gone.x/$clips[9]")).lacking(DATA) == ["gone.x", "clips[9]"]


def test_rates_and_pictures_may_be_nested_too() -> None:
    assert parse(box("$video")).fps_of(DATA) == 30
    mask = (
        '<View><BitmaskLabels name="m" toName="other,image"><Label value="x"/></BitmaskLabels>'
        '<Image name="image" valueList="$media.frames"/></View>'
    )
    assert parse(mask).frames_of({"media": {"frames": ["1.jpg"]}}) == ["1.jpg"]
    assert parse(mask).frames_of({"media": {}}) is None


def test_a_tag_on_several_objects_fills_the_first_that_it_can() -> None:
    config = parse(box("$video", "i, v,w", '<Image name="i" value="$image"/><Video name="w" value="$other"/>'))
    assert (config.object_name, config.video_of(DATA)) == ("v", "a.mp4")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("fps", {"fps": 1}),
        ("media.fps", {"media": {"clip": "b", "fps": 1}}),
        ("new.fps", {"new": {"fps": 1}}),
        ("clips[0]", {"clips": [1]}),
        ("a.b", {"a.b": 1}),
    ],
)
def test_a_value_is_put_where_the_editor_reads_it(path: str, expected: dict[str, Any]) -> None:
    data = {"media": {"clip": "b"}, "clips": [0], "a.b": 0}
    assert assigned(data, path, 1) == data | expected
    assert data == {"media": {"clip": "b"}, "clips": [0], "a.b": 0}


@pytest.mark.parametrize("path", ["clips[5]", "name.x", "clips.x"])
def test_a_place_that_cannot_be_is_an_error(path: str) -> None:
    with pytest.raises(KeyError):
        assigned(DATA, path, 1)
