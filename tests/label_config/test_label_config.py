"""Labelling configurations: filled in so that Label Studio accepts them, and parsed."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

import label_config
from label_config import View, clean_label, editor_rate, fill, parse, track_labels, with_labels
from trajseg.errors import LabelConfigError
from trajseg.palette import PALETTE


@pytest.mark.parametrize("view", ["mask", "box"])
def test_the_shipped_configuration_has_eight_tracks_in_eight_colours(view: View) -> None:
    root = ElementTree.fromstring(fill(view))
    control = root.find("BitmaskLabels") if view == "mask" else root.find("Labels")
    assert control is not None
    assert [label.get("value") for label in control] == track_labels(8)
    assert [label.get("background") for label in control] == list(PALETTE[:8])


def test_masks_are_painted_on_pictures_and_requested_by_a_sentence() -> None:
    config = parse(fill("mask"))
    assert (config.view, config.control, config.object_name, config.hint) == ("mask", "mask", "image", "hint")
    assert config.point == "point"
    assert (config.frames_key, config.video_key, config.fps_key) == ("frames", "video", "fps")
    assert config.instruction is not None
    assert (config.instruction.name, config.instruction.to_name) == ("instruction", "image")
    assert config.caption is not None
    assert config.caption.name == "caption"
    assert config.result_type == "bitmasklabels"


def test_boxes_are_drawn_on_the_video() -> None:
    config = parse(fill("box", ["a", "b"]))
    assert (config.view, config.control, config.object_name) == ("box", "box", "video")
    assert config.labels == ("a", "b")
    assert (config.fps_key, config.frames_key, config.result_type) == ("fps", "", "videorectangle")


@pytest.mark.parametrize("view", ["mask", "box"])
@pytest.mark.parametrize(
    "label", ["a<b>&\"c'", "Größe 大きい 🚲", "tab\tand\nline", 'x" background="#000', "]]>", "<!-- -->"]
)
def test_any_label_survives_the_xml(view: View, label: str) -> None:
    assert parse(fill(view, [label])).labels == (" ".join(label.split()),)


def test_what_label_studio_would_misread_is_cleaned_away() -> None:
    assert clean_label("$price") == "price"
    assert clean_label("a\x00b\x1f") == "a b"
    assert len(clean_label("x" * 500)) == 80


@pytest.mark.parametrize("label", ["", "  ", "\x01", "$", "\n"])
def test_a_label_of_nothing_is_refused(label: str) -> None:
    with pytest.raises(LabelConfigError):
        fill("mask", [label])


def test_no_labels_are_refused_and_doubled_ones_are_one() -> None:
    with pytest.raises(LabelConfigError):
        fill("mask", [])
    assert parse(fill("mask", ["a", "b", " a "])).labels == ("a", "b")


def test_many_tracks_get_colours_again() -> None:
    assert len(parse(fill("mask", track_labels(40))).labels) == 40


def test_added_labels_leave_a_persons_own_configuration_as_it_is() -> None:
    xml = (
        '<View><Image name="i" valueList="$pics"/><BitmaskLabels name="m" toName="i" smart="true">'
        '<Label value="car" background="#010203" hotkey="c"/></BitmaskLabels></View>'
    )
    more = with_labels(xml, "mask", ["car", "track-1"])
    assert parse(more).labels == ("car", "track-1")
    assert 'background="#010203"' in more
    assert 'hotkey="c"' in more
    assert parse(more).frames_key == "pics"


VIDEO = '<Video name="v" value="$v"/>'
PICTURES = '<Image name="i" valueList="$i"/>'
PICTURE = '<Image name="i" value="$i"/>'
MASKS = '<BitmaskLabels name="m" toName="i"><Label value="a"/></BitmaskLabels>'
BOXES = '<VideoRectangle name="b" toName="v"/>'


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ("<View>", "not XML"),
        ('<Text name="t" value="$t"/>', "neither"),
        (PICTURE + MASKS, "valueList"),
        (VIDEO + MASKS.replace("Bitmask", "Brush"), "neither"),
        (VIDEO + BOXES, "Labels"),
        (VIDEO.replace("Video", "Image") + BOXES, "not on a <Video>"),
        (PICTURES + '<BitmaskLabels name="m" toName="i"/>', "no <Label"),
    ],
)
def test_a_configuration_without_a_usable_tag_is_refused_with_the_reason(tags: str, reason: str) -> None:
    with pytest.raises(LabelConfigError) as refused:
        parse(f"<View>{tags}</View>")
    assert reason in refused.value.message
    assert refused.value.remedy


def test_xml_that_declares_entities_is_refused_unread() -> None:
    with pytest.raises(LabelConfigError, match="entities"):
        parse('<!DOCTYPE v [<!ENTITY a "b">]><View>&a;</View>')


def test_a_recorded_configuration_with_other_names_is_understood() -> None:
    config = parse(
        '<View><Labels name="labels" toName="video"><Label value="target"/></Labels>'
        '<Video name="video" value="$video" frameRate="25"/>'
        '<VideoRectangle name="box" toName="video" smart="true"/>'
        '<TextArea name="prompt" toName="video" smart="true"/></View>'
    )
    assert config.labels == ("target",)
    assert (config.fps_key, config.frame_rate) == ("", 25.0)
    assert config.instruction is not None
    assert config.instruction.name == "prompt"
    assert config.caption is None


def test_the_second_of_two_controls_is_used_when_the_first_cannot_be() -> None:
    labels = '<Labels name="l" toName="v"><Label value="x" alias="y"/></Labels>'
    config = parse(f"<View>{PICTURE}{MASKS}{labels}{VIDEO}{BOXES}</View>")
    assert (config.view, config.control, config.labels) == ("box", "b", ("y",))


def test_the_surface_is_what_it_says() -> None:
    assert all(hasattr(label_config, name) for name in label_config.__all__)


BOX = '<View><Labels name="l" toName="v"><Label value="x"/></Labels>{video}<VideoRectangle name="b" toName="v"/></View>'


@pytest.mark.parametrize(
    ("attribute", "key", "rate"),
    [
        ('framerate="25.0"', "", 25.0),
        ('frameRate="29.97"', "", 29.97),
        ('FRAMERATE="12"', "", 12.0),
        ("", "", 24.0),
        ('frameRate=""', "", 24.0),
        ('frameRate="0"', "", 24.0),
        ('frameRate="25 fps"', "", 24.0),
        ('frameRate="0.04"', "", 25.0),
        ('frameRate="$fps"', "fps", None),
        ('framerate="$rate"', "rate", None),
        ('framerate=" $rate "', "rate", None),
        ('frameRate=" 25 "', "", 25.0),
        ('frameRate="0x19"', "", 25.0),
        ('frameRate="30000/1001"', "", 24.0),
        ('frameRate="25,0"', "", 24.0),
        ('frameRate="-5"', "", 24.0),
        ('frameRate="\u0662\u0665"', "", 24.0),
        ('frameRate="12" framerate="25"', "", 25.0),
        ('framerate="$rate" frameRate="25"', "", 25.0),
        ('frameRate="25" framerate="$rate"', "rate", None),
    ],
)
def test_the_frame_rate_is_the_one_that_the_editor_counts_by(attribute: str, key: str, rate: float | None) -> None:
    config = parse(BOX.format(video=f'<Video name="v" value="$video" {attribute}/>'))
    assert (config.fps_key, config.frame_rate) == (key, rate)
    assert config.rate_for({"fps": 30, "rate": "12.5"}) == (rate or {"fps": 30.0, "rate": 12.5}[key])
    assert config.rate_for({}) == (rate or 24.0)
    assert config.video_line == '<Video name="v" value="$video" frameRate="$fps"/>'


@pytest.mark.parametrize(
    ("value", "rate"),
    [
        (30, 30.0),
        ("29.97", 29.97),
        (0.5, 2.0),
        (0, 24.0),
        (-5, 24.0),
        ("", 24.0),
        (None, 24.0),
        (True, 1.0),
        (False, 24.0),
        ("1_0", 24.0),
        ("\u00a0\ufeff25\n", 25.0),
        ("\x8525", 24.0),
        ("\u0967\u0968", 24.0),
        ("1e400", 24.0),
        (10**400, 24.0),
        ("0b11001", 25.0),
        ("+0x19", 24.0),
        ([], 24.0),
        ([25], 25.0),
        (["25"], 25.0),
        ([25, 30], 24.0),
        ({}, 24.0),
    ],
)
def test_a_frame_rate_in_task_data_counts_as_in_the_editor(value: object, rate: float) -> None:
    assert editor_rate(value) == rate


def test_a_composed_frame_rate_is_read_and_not_written() -> None:
    config = parse(BOX.format(video='<Video name="v" value="$video" frameRate="$whole.$part"/>'))
    assert (config.fps_key, config.frame_rate) == ("", None)
    assert config.rate_for({"whole.": 29}) == 24.0
    config = parse(BOX.format(video='<Video name="v" value="$video" frameRate="2$digit"/>'))
    assert config.rate_for({"digit": 5}) == 25.0
    assert config.rate_for({}) == 24.0
