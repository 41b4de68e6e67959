"""What trajseg reads out of a project's labelling configuration: which tags it can fill, and their labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

from trajseg.errors import LabelConfigError

View = Literal["mask", "box"]

_MASK_TAG = "BitmaskLabels"
_BOX_TAG = "VideoRectangle"
_REMEDY = (
    "Use one of trajseg's configurations (label_config/mask_tracks.xml or box_tracks.xml): "
    "<BitmaskLabels> on an <Image valueList> for masks, or <VideoRectangle> on a <Video> for boxes."
)


@dataclass(frozen=True)
class TextTag:
    """A <TextArea>: its name, and the tag that it belongs to."""

    name: str
    to_name: str


@dataclass(frozen=True)
class LabelConfig:
    """The tags that trajseg fills in one labelling configuration.

    Attributes:
        view: "mask" (BitmaskLabels on a multi-image Image) or "box" (VideoRectangle on a Video).
        control: name of the BitmaskLabels or VideoRectangle tag; `from_name` of a result.
        object_name: name of the Image or Video tag; `to_name` of a result.
        labels: what may stand as a track's label, in the order of the configuration.
        hint: name of the smart rectangle on the Image, where there is one.
        instruction: the text area that holds the sentence, where there is one.
        caption: the text area that holds the captions, where there is one.
        video_key: key of the video in task data.
        frames_key: key of the list of pictures in task data; empty in the box view.
        fps_key: key of the frame rate in task data; empty when the configuration fixes the rate.
        frame_rate: the fixed frame rate (frames per second); None when it comes from task data.
    """

    view: View
    control: str
    object_name: str
    labels: tuple[str, ...]
    hint: str | None = None
    instruction: TextTag | None = None
    caption: TextTag | None = None
    video_key: str = "video"
    frames_key: str = ""
    fps_key: str = ""
    frame_rate: float | None = None

    @property
    def result_type(self) -> str:
        """`type` of a result of this view, as Label Studio spells it."""
        return "bitmasklabels" if self.view == "mask" else "videorectangle"


def parse(xml: str) -> LabelConfig:
    """Reads a labelling configuration; masks win where it can hold both masks and boxes.

    Raises LabelConfigError when it is not XML, or has no tag that trajseg can fill.
    """
    root = _tree(xml)
    tags = list(root.iter())
    names = {tag.get("name"): tag for tag in tags if tag.get("name")}
    texts = [tag for tag in tags if tag.tag == "TextArea" and tag.get("name")]
    instruction = _instruction(texts)
    caption = _caption([tag for tag in texts if tag is not instruction])
    video = next((tag for tag in tags if tag.tag == "Video"), None)
    common = {
        "instruction": _text_tag(instruction),
        "caption": _text_tag(caption),
        "video_key": _key(video, "value") or "video",
        "fps_key": _key(video, "frameRate"),
        "frame_rate": _rate(video),
    }
    problems: list[str] = []
    for tag in tags:
        if tag.tag != _MASK_TAG:
            continue
        image = names.get(tag.get("toName"))
        if image is None or image.tag != "Image" or not _key(image, "valueList"):
            problems.append(f'<{_MASK_TAG} name="{tag.get("name")}"> is not on an <Image valueList="$...">')
            continue
        hint = next(
            (
                other.get("name")
                for other in tags
                if other.tag in ("RectangleLabels", "Rectangle")
                and other.get("toName") == image.get("name")
                and other.get("smart") == "true"
            ),
            None,
        )
        return LabelConfig(
            view="mask",
            control=_name(tag),
            object_name=_name(image),
            labels=_labels(tag),
            hint=hint,
            frames_key=_key(image, "valueList"),
            **common,
        )
    for tag in tags:
        if tag.tag != _BOX_TAG:
            continue
        target = names.get(tag.get("toName"))
        if target is None or target.tag != "Video":
            problems.append(f'<{_BOX_TAG} name="{tag.get("name")}"> is not on a <Video>')
            continue
        labels = [t for t in tags if t.tag == "Labels" and t.get("toName") == target.get("name")]
        if not labels:
            problems.append(f'<{_BOX_TAG} name="{tag.get("name")}"> has no <Labels> on the same <Video>')
            continue
        common["video_key"] = _key(target, "value") or "video"
        common["fps_key"] = _key(target, "frameRate")
        common["frame_rate"] = _rate(target)
        return LabelConfig(
            view="box", control=_name(tag), object_name=_name(target), labels=_labels(labels[0]), **common
        )
    reason = "; ".join(problems) or f"there is neither a <{_MASK_TAG}> nor a <{_BOX_TAG}> tag"
    raise LabelConfigError(f"trajseg cannot fill this labelling configuration: {reason}.", _REMEDY)


def _tree(xml: str) -> ElementTree.Element:
    # Entities have no place in a labelling configuration, and expanding them is an old way to eat memory.
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise LabelConfigError("The labelling configuration declares XML entities.", _REMEDY)
    try:
        return ElementTree.fromstring(xml.strip())
    except ElementTree.ParseError as error:
        raise LabelConfigError(f"The labelling configuration is not XML: {error}.", _REMEDY) from error


def _name(tag: ElementTree.Element) -> str:
    name = tag.get("name")
    if not name:
        raise LabelConfigError(f"A <{tag.tag}> tag of the labelling configuration has no name.", _REMEDY)
    return name


def _labels(tag: ElementTree.Element) -> tuple[str, ...]:
    # Label Studio writes the alias into results where a label has one.
    labels = tuple(label.get("alias") or label.get("value") or "" for label in tag.iter("Label"))
    if not any(labels):
        raise LabelConfigError(f'<{tag.tag} name="{tag.get("name")}"> has no <Label value="...">.', _REMEDY)
    return tuple(label for label in labels if label)


def _key(tag: ElementTree.Element | None, attribute: str) -> str:
    value = (tag.get(attribute) or "") if tag is not None else ""
    return value[1:] if value.startswith("$") else ""


def _rate(video: ElementTree.Element | None) -> float | None:
    if video is None or _key(video, "frameRate"):
        return None
    try:
        # 24 is what Label Studio takes when the attribute is absent.
        return float(video.get("frameRate") or video.get("framerate") or 24)
    except ValueError:
        return None


def _instruction(texts: list[ElementTree.Element]) -> ElementTree.Element | None:
    named = [tag for tag in texts if tag.get("name") in ("instruction", "prompt")]
    smart = [tag for tag in texts if tag.get("smart") == "true"]
    return next(iter(named + smart), None)


def _caption(texts: list[ElementTree.Element]) -> ElementTree.Element | None:
    return next((tag for tag in texts if "caption" in (tag.get("name") or "").lower()), None)


def _text_tag(tag: ElementTree.Element | None) -> TextTag | None:
    return TextTag(tag.get("name") or "", tag.get("toName") or "") if tag is not None else None
