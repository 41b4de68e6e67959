"""What trajseg reads from a project's labelling configuration: usable tags, their labels, the frame rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal
from xml.etree import ElementTree

from label_config.frame_rate import editor_rate
from label_config.values import MISSING, is_reference, lookup, paths, resolve
from trajseg.errors import LabelConfigError

View = Literal["mask", "box"]
NEGATIVE = ("not this", "not here")
"""Labels of smart rectangles and points that say where the object is not."""
Tag = ElementTree.Element

_MASK_TAG = "BitmaskLabels"
_BOX_TAG = "VideoRectangle"
_RATE_ATTRIBUTE = "framerate"
LONGEST_REMEMBERED = 2**16
_REMEDY = (
    "Use one of trajseg's configurations (label_config/mask_tracks.xml or box_tracks.xml): "
    "<BitmaskLabels> on an <Image valueList> for masks, or <VideoRectangle> on a <Video> for boxes."
)


@dataclass(frozen=True)
class TextTag:
    """A <TextArea>: its name, and the tag it belongs to."""

    name: str
    to_name: str


@dataclass(frozen=True)
class LabelConfig:
    """The tags of a labelling configuration that trajseg fills in.

    Attributes:
        view: "mask" (BitmaskLabels on a multi-image Image) or "box" (VideoRectangle on a Video).
        control: name of the BitmaskLabels or VideoRectangle tag; `from_name` of a result.
        object_name: name of the Image or Video tag; `to_name` of a result.
        labels: the possible labels of tracks, in the order of the configuration.
        instructions: labels with their own instruction (`<Label value="car" instruction="the red car"/>`), in
        order; tasks without an instruction use all of them.
        timeline: name of a <TimelineLabels> on the Video of the box view, if any; it gets a range for each run of
        frames in which a track is visible.
        timeline_labels: its labels.
        hint: name of the smart rectangle on the Image, if any.
        point: name of the smart key point on the Image, if any.
        instruction: the text area for the instruction, if any.
        caption: the text area for the captions, if any.
        answer: the text area in which trajseg reports the outcome of a request, if any.
        video_key: path of the video in task data, such as `video` or `media.clip`; the attribute's whole value if it
        is composed, such as `https://host/$name`.
        video_value: the same as in the tag: `$video`.
        frames_key: key of the list of pictures in task data; empty in the box view.
        fps_key: key of the frame rate in task data; empty when the configuration fixes the rate, or composes it.
        frame_rate: the frame rate fixed by the configuration (frames per second, 24 if none is given); None if it
        comes from task data.
        rate_value: the frame rate as in the tag: `$fps`, `25.0`; empty if none is given.
        video_line: the recommended <Video> tag, with its frame rate from task data; empty without a <Video>.
    """

    view: View
    control: str
    object_name: str
    labels: tuple[str, ...]
    instructions: tuple[tuple[str, str], ...] = ()
    timeline: str | None = None
    timeline_labels: tuple[str, ...] = ()
    hint: str | None = None
    point: str | None = None
    instruction: TextTag | None = None
    caption: TextTag | None = None
    answer: TextTag | None = None
    video_key: str = "video"
    video_value: str = "$video"
    frames_key: str = ""
    fps_key: str = ""
    frame_rate: float | None = None
    rate_value: str = ""
    video_line: str = ""

    @property
    def result_type(self) -> str:
        """The `type` of a result in this view, as Label Studio spells it."""
        return "bitmasklabels" if self.view == "mask" else "videorectangle"

    def rate_for(self, data: Mapping[str, Any]) -> float:
        """Frames per second that the editor uses for the video of a task with this data."""
        return self.frame_rate if self.frame_rate is not None else editor_rate(self.fps_of(data))

    def video_of(self, data: Mapping[str, Any]) -> Any:
        """The video that the editor opens for this task data; None if it is missing."""
        return resolve(self.video_value, data)

    def lacking(self, data: Mapping[str, Any]) -> list[str]:
        """Paths that the video refers to but the task data lacks."""
        return [path for path in paths(self.video_value) if lookup(data, path) in (MISSING, None)]

    def frames_of(self, data: Mapping[str, Any]) -> Any:
        """The list of pictures in task data; None if it is missing."""
        return resolve(f"${self.frames_key}", data) if self.frames_key else None

    def fps_of(self, data: Mapping[str, Any]) -> Any:
        """The frame rate in task data; None if it is missing."""
        return resolve(self.rate_value, data) if self.frame_rate is None else None


def parse(xml: str) -> LabelConfig:
    """Parses a labelling configuration; if it has both masks and boxes, masks take precedence.

    Raises LabelConfigError if it is not XML or has no tag that trajseg can fill in.
    """
    return _remembered(xml) if len(xml) <= LONGEST_REMEMBERED else _read(xml)


def _read(xml: str) -> LabelConfig:
    tags = list(_tree(xml).iter())
    named = {tag.get("name") or "": tag for tag in tags}
    problems: list[str] = []
    for tag_name, object_name, read in ((_MASK_TAG, "Image", _mask_config), (_BOX_TAG, "Video", _box_config)):
        for control in (tag for tag in tags if tag.tag == tag_name):
            try:
                return read(control, _target(control, named, object_name), tags)
            except LabelConfigError as error:
                problems.append(error.message)
    reason = "; ".join(problems) or f"there is neither a <{_MASK_TAG}> nor a <{_BOX_TAG}> tag"
    raise LabelConfigError(f"trajseg cannot use this labelling configuration: {reason}.", _REMEDY)


_remembered = lru_cache(maxsize=64)(_read)
"""Size of the cache; every /predict carries its project's configuration."""


def _mask_config(control: Tag, image: Tag | None, tags: list[Tag]) -> LabelConfig:
    if image is None or image.tag != "Image" or not _key(image, "valueList"):
        raise LabelConfigError(f'<{_MASK_TAG} name="{control.get("name")}"> is not on an <Image valueList="$...">')
    video = next((tag for tag in tags if tag.tag == "Video"), None)
    return LabelConfig(
        view="mask",
        control=_name(control),
        object_name=_name(image),
        labels=_labels(control),
        instructions=_instructions(control),
        hint=_smart(tags, image, ("RectangleLabels", "Rectangle")),
        point=_smart(tags, image, ("KeyPointLabels", "KeyPoint")),
        instruction=_instruction(tags),
        caption=_caption(tags),
        answer=_answer(tags),
        video_key=_value(video)[1:] if is_reference(_value(video)) else _value(video),
        video_value=_value(video),
        frames_key=_key(image, "valueList"),
        fps_key=_rate_key(video),
        frame_rate=_rate(video),
        rate_value=_rate_attribute(video),
        video_line=_video_line(video),
    )


def _smart(tags: list[Tag], image: Tag, names: tuple[str, ...]) -> str | None:
    """The name of the first smart tag of this kind on the image; None if there is none."""
    found = [tag for tag in tags if tag.tag in names and image.get("name") in _targets(tag)]
    return next((tag.get("name") for tag in found if tag.get("smart") == "true"), None)


def _box_config(control: Tag, video: Tag | None, tags: list[Tag]) -> LabelConfig:
    where = f'<{_BOX_TAG} name="{control.get("name")}">'
    if video is None or video.tag != "Video":
        raise LabelConfigError(f"{where} is not on a <Video>", "Give it the name of the <Video> as toName.")
    labels = [tag for tag in tags if tag.tag == "Labels" and video.get("name") in _targets(tag)]
    if not labels:
        raise LabelConfigError(f"{where} has no <Labels> on the same <Video>", "Add <Labels> with the same toName.")
    timelines = [tag for tag in tags if tag.tag == "TimelineLabels" and video.get("name") in _targets(tag)]
    timeline = next(iter(timelines), None)
    return LabelConfig(
        view="box",
        control=_name(control),
        object_name=_name(video),
        labels=_labels(labels[0]),
        instructions=_instructions(labels[0]),
        timeline=timeline.get("name") if timeline is not None else None,
        timeline_labels=_labels(timeline) if timeline is not None else (),
        instruction=_instruction(tags),
        caption=_caption(tags),
        answer=_answer(tags),
        video_key=_value(video)[1:] if is_reference(_value(video)) else _value(video),
        video_value=_value(video),
        fps_key=_rate_key(video),
        frame_rate=_rate(video),
        rate_value=_rate_attribute(video),
        video_line=_video_line(video),
    )


def _tree(xml: str) -> Tag:
    # Labelling configurations need no entities, and expanding them could exhaust memory ("billion laughs").
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise LabelConfigError("The labelling configuration declares XML entities.", _REMEDY)
    try:
        return ElementTree.fromstring(xml.strip())
    except ElementTree.ParseError as error:
        raise LabelConfigError(f"The labelling configuration is not XML: {error}.", _REMEDY) from error


def _name(tag: Tag) -> str:
    name = tag.get("name")
    if not name:
        raise LabelConfigError(f"A <{tag.tag}> tag of the labelling configuration has no name.", _REMEDY)
    return name


def _labels(tag: Tag) -> tuple[str, ...]:
    # If a label has an alias, Label Studio writes that into results.
    labels = tuple(label.get("alias") or label.get("value") or "" for label in tag.iter("Label"))
    if not any(labels):
        raise LabelConfigError(f'<{tag.tag} name="{tag.get("name")}"> has no <Label value="...">', _REMEDY)
    return tuple(label for label in labels if label)


def _instructions(tag: Tag) -> tuple[tuple[str, str], ...]:
    pairs = [
        (label.get("alias") or label.get("value") or "", (label.get("instruction") or "").strip())
        for label in tag.iter("Label")
    ]
    return tuple((label, instruction) for label, instruction in pairs if label and instruction)


def _targets(tag: Tag) -> list[str]:
    """Names of the tags that a tag belongs to: `toName` may list several."""
    return [name.strip() for name in (tag.get("toName") or "").split(",") if name.strip()]


def _target(control: Tag, named: Mapping[str, Tag], object_name: str) -> Tag | None:
    """The first tag of this kind that a control belongs to, else the first of any kind."""
    found = [named[name] for name in _targets(control) if name in named]
    return next((tag for tag in found if tag.tag == object_name), next(iter(found), None))


def _value(video: Tag | None) -> str:
    return ((video.get("value") or "") if video is not None else "") or "$video"


def _key(tag: Tag | None, attribute: str) -> str:
    """The path, if the attribute is a single reference into task data; otherwise empty."""
    value = (tag.get(attribute) or "") if tag is not None else ""
    return value[1:] if is_reference(value) else ""


def _rate_attribute(video: Tag | None) -> str:
    # Label Studio's editor lower-cases attribute names; the last spelling wins.
    attributes = video.attrib.items() if video is not None else ()
    values = [value for name, value in attributes if name.lower() == _RATE_ATTRIBUTE]
    return values[-1] if values else ""


def _rate_key(video: Tag | None) -> str:
    # Blanks around it make no difference to a number.
    value = _rate_attribute(video).strip()
    return value[1:] if is_reference(value) else ""


def _rate(video: Tag | None) -> float | None:
    if video is None or paths(_rate_attribute(video)):
        return None
    return editor_rate(_rate_attribute(video))


def _video_line(video: Tag | None) -> str:
    if video is None:
        return ""
    kept = {name: value for name, value in video.attrib.items() if name.lower() != _RATE_ATTRIBUTE}
    return ElementTree.tostring(Tag("Video", {**kept, "frameRate": "$fps"}), encoding="unicode").replace(" />", "/>")


def _instruction(tags: list[Tag]) -> TextTag | None:
    texts = _texts(tags)
    named = [tag for tag in texts if tag.get("name") in ("instruction", "prompt")]
    smart = [tag for tag in texts if tag.get("smart") == "true"]
    return next((_text_tag(tag) for tag in named + smart), None)


def _caption(tags: list[Tag]) -> TextTag | None:
    return next((_text_tag(tag) for tag in _texts(tags) if "caption" in (tag.get("name") or "").lower()), None)


def _answer(tags: list[Tag]) -> TextTag | None:
    return next((_text_tag(tag) for tag in _texts(tags) if tag.get("name") == "answer"), None)


def _texts(tags: list[Tag]) -> list[Tag]:
    return [tag for tag in tags if tag.tag == "TextArea" and tag.get("name")]


def _text_tag(tag: Tag) -> TextTag:
    return TextTag(tag.get("name") or "", next(iter(_targets(tag)), ""))
