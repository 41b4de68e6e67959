"""What an older project's labelling configuration lacks is named with the line that adds or changes it."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from label_config import View, fill, lacks, parse

OLDER = """<View>
  <BitmaskLabels name="mask" toName="pic"><Label value="track-1"/></BitmaskLabels>
  <RectangleLabels name="hint" toName="pic" smart="true"><Label value="hint"/></RectangleLabels>
  <Image name="pic" valueList="$frames" zoom="true"/>
  <TextArea name="instruction" toName="pic" smart="true"/>
  <Video name="video" value="$video" frameRate="$fps"/>
</View>
"""


@pytest.mark.parametrize("view", ["mask", "box"])
def test_the_shipped_configurations_lack_nothing(view: View) -> None:
    assert lacks(fill(view)) == []


def test_each_lack_of_an_older_configuration_is_named_with_its_line() -> None:
    found = lacks(OLDER)
    words = " | ".join(lack.words for lack in found)
    assert len(found) == 4
    for name in ("`answer`", "line 4", "clicks", "'not this'"):
        assert name in words
    [picture] = [lack for lack in found if "line 4" in lack.words]
    assert picture.remedy == (
        'Change line 4 to <Image name="pic" valueList="$frames" zoom="true" width="calc(100% - 44px)"/>'
    )


def test_following_the_remedies_leaves_nothing_missing() -> None:
    lines = OLDER.splitlines()
    for lack in lacks(OLDER):
        xml = re.search(r"<.*>", lack.remedy)
        assert xml
        if change := re.match(r"Change line (\d+)", lack.remedy):
            lines[int(change[1]) - 1] = xml[0]
        elif "before the last" in lack.remedy:
            # The sentence names the tag itself, too.
            lines.insert(len(lines) - 1, lack.remedy.partition("</View>: ")[2])
        else:
            at = next(number for number, line in enumerate(lines) if 'name="hint"' in line)
            lines[at] = lines[at].replace("</RectangleLabels>", f"{xml[0]}</RectangleLabels>")
    changed = "\n".join(lines)
    ElementTree.fromstring(changed)
    assert lacks(changed) == []
    assert parse(changed).answer is not None


@pytest.mark.parametrize(
    ("width", "told"), [("95%", False), ("100%", True), ("96.5%", True), ("640px", False), ("", True)]
)
def test_a_picture_that_fills_its_panel_is_reported(width: str, told: bool) -> None:
    xml = fill("mask").replace('width="calc(100% - 44px)"', f'width="{width}"')
    assert [lack.remedy for lack in lacks(xml) if "crops pictures" in lack.words] == (
        [f"Change line {line_of(xml)} to {image_of(fill('mask'))}"] if told else []
    )


def line_of(xml: str) -> int:
    return next(number for number, line in enumerate(xml.splitlines(), 1) if "<Image" in line)


def image_of(xml: str) -> str:
    return next(line for line in xml.splitlines() if "<Image" in line).strip().replace(" />", "/>")
