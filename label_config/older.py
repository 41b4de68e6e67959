"""What is missing from an older project's labelling configuration, and the XML line that adds or changes it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree import ElementTree

from label_config.config import NEGATIVE, LabelConfig, parse
from label_config.templates import fill

WIDEST_PERCENT = 95.0
"""Widest picture, in percent of the panel, that Label Studio does not crop at the right and bottom."""

_IMAGE = re.compile(r"<Image\b[^>]*?>", re.DOTALL)


@dataclass(frozen=True)
class Lack:
    """One thing missing from a labelling configuration.

    Attributes:
        words: what does not work because of it.
        remedy: what to add or change under Settings > Labeling Interface, with the lines themselves.
    """

    words: str
    remedy: str


def lacks(xml: str) -> list[Lack]:
    """What trajseg's own configuration of the same view has and this one lacks.

    Raises LabelConfigError if trajseg cannot use the configuration at all.
    """
    config = parse(xml)
    shipped = ElementTree.fromstring(fill(config.view))
    found = []
    if config.answer is None:
        found.append(
            Lack(
                "there is no text area `answer`: an instruction without a result gets no answer on the page, and "
                "warnings appear among the captions",
                _add(_answer_lines(shipped, config)),
            )
        )
    if config.view == "mask":
        found += _picture(xml, shipped)
        found += _marks(xml, config, shipped)
    return found


def _picture(xml: str, shipped: ElementTree.Element) -> list[Lack]:
    [wanted] = shipped.iter("Image")
    image = next(tag for tag in ElementTree.fromstring(xml.strip()).iter("Image") if tag.get("valueList"))
    if _is_narrow(image.get("width") or ""):
        return []
    line = _line(ElementTree.Element("Image", {**image.attrib, "width": wanted.get("width") or ""}))
    start = next((one.start() for one in _IMAGE.finditer(xml) if "valueList" in one[0]), 0)
    number = xml.count("\n", 0, start) + 1
    words = f"line {number}: the <Image> fills its panel, so Label Studio crops pictures at the right and bottom"
    return [Lack(words, f"Change line {number} to {line}")]


def _marks(xml: str, config: LabelConfig, shipped: ElementTree.Element) -> list[Lack]:
    found = []
    if config.point is None:
        [point] = shipped.iter("KeyPointLabels")
        point.set("toName", config.object_name)
        words = "there is no smart key point: clicks on a picture have no effect"
        found.append(Lack(words, _add(_line(point))))
    if config.hint is None:
        [hint] = shipped.iter("RectangleLabels")
        hint.set("toName", config.object_name)
        words = "there is no smart rectangle: boxes cannot mark an object, or parts that do not belong to it"
        found.append(Lack(words, _add(_line(hint))))
    else:
        tags = [tag for tag in ElementTree.fromstring(xml.strip()).iter() if tag.get("name") == config.hint]
        labels = {str(label.get("value")).lower() for tag in tags for label in tag.iter("Label")}
        if labels and not labels & {*NEGATIVE}:
            words = f"the smart rectangle {config.hint!r} has no label {NEGATIVE[0]!r}: boxes cannot remove anything"
            line = f'<Label value="{NEGATIVE[0]}" background="#5f6368"/>'
            found.append(Lack(words, f"Add to it {line}"))
    return found


def _is_narrow(width: str) -> bool:
    if not width.strip():
        return False
    percent = re.fullmatch(r"\s*([\d.]+)%\s*", width)
    return percent is None or float(percent[1]) <= WIDEST_PERCENT


def _answer_lines(shipped: ElementTree.Element, config: LabelConfig) -> str:
    style = next(tag for tag in shipped.iter("Style") if "trajseg-answer" in (tag.text or ""))
    around = next(tag for tag in shipped.iter("View") if tag.get("className") == "trajseg-answer")
    for tag in around.iter("TextArea"):
        tag.set("toName", config.object_name)
    return _line(style) + _line(around)


def _line(tag: ElementTree.Element) -> str:
    tag.tail = None
    text = ElementTree.tostring(tag, encoding="unicode").replace(" />", "/>")
    return re.sub(r">\s+<", "><", text).strip()


def _add(lines: str) -> str:
    return f"Add before the last </View>: {lines}"
