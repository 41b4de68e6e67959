"""What a person drew: a Label Studio annotation read back into masks and boxes by track and frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.label_studio import boxes as box_keys
from backend.label_studio import png
from backend.label_studio.incoming.payloads import MAX_ID
from label_config import LabelConfig
from trajseg.errors import TaskError
from trajseg.video import FrameMap
from trajseg.video.decoding import frame_pixel_limit

MOST_MASKS = 100
"""Most masks of the largest size in one annotation; of smaller masks there may be more."""

LONGEST_LABEL = 400
"""Characters; what a column for labels holds."""
WARNING = "Warning: "
"""Prefix of a line in the captions area that is not a caption."""


@dataclass
class AnnotationContent:
    """The content of an annotation or prediction, by (label, 0-based frame index).

    Attributes:
        masks: bool [H, W]; only in the mask view, and only for frames that have paint.
        boxes: x, y, width, height in percent of the picture, from its top left; only in the box view.
        keyed: places of `boxes` that are key frames; Label Studio interpolates the boxes between them.
        edited: (label, index) pairs that Label Studio marks as drawn or changed by a person.
        instruction: the newest sentence in the instruction's text area; empty when there is none.
        pixels: total over all masks read.
        captions: caption by label; text that names no label is under "".
        events: by label, the frames within its ranges on the timeline; only in the box view.
        extended: places without a box that a person has put within a range; see `corrections.apply_events`.
    """

    masks: dict[tuple[str, int], NDArray[np.bool_]] = field(default_factory=dict)
    boxes: dict[tuple[str, int], box_keys.Box] = field(default_factory=dict)
    keyed: set[tuple[str, int]] = field(default_factory=set)
    edited: set[tuple[str, int]] = field(default_factory=set)
    instruction: str = ""
    pixels: int = 0
    captions: dict[str, str] = field(default_factory=dict)
    events: dict[str, set[int]] = field(default_factory=dict)
    extended: set[tuple[str, int]] = field(default_factory=set)


def from_annotation(
    annotation: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    config: LabelConfig,
    frame_index: Sequence[int] = (),
    frame_map: FrameMap | None = None,
    frame_rate: float | None = None,
) -> AnnotationContent:
    """What an annotation (or prediction, draft, or plain list of results) says about each frame.

    Args:
        annotation: as Label Studio's API returns it.
        config: of the project.
        frame_index: the task's `frame_index`: 0-based frame index of each picture in `frames` (mask view).
        frame_map: the clip's (box view).
        frame_rate: frames per second that the editor counts (`config.rate_for(task.data)`). Defaults to the rate
            fixed by the configuration, else the frame map's.

    Regions with the same label on the same picture are merged into one mask.

    Raises TaskError if the annotation does not fit the task.
    """
    results = _result_list(annotation)
    content = AnnotationContent()
    frame_rate = frame_rate or config.frame_rate
    if frame_map is not None and frame_rate is not None:
        frame_map = frame_map.at_rate(frame_rate)
    for item in results:
        try:
            _read_region(item, config, frame_index, frame_map, content)
        except (AttributeError, TypeError, ValueError, LookupError, OverflowError) as error:
            # Label Studio stores what its API is given, unchecked.
            raise TaskError(
                f"A region of the annotation cannot be read ({type(error).__name__}: {str(error)[:200]}).",
                "Delete that region, or draw it again.",
            ) from error
    return content


def shown_frames(data: Mapping[str, Any]) -> list[int]:
    """The task's `frame_index`: the 0-based frame of each picture; empty if it has none.

    Raises TaskError if they are no frames.
    """
    held = data.get("frame_index")
    if not isinstance(held, list):
        return []
    for index in held:
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index <= MAX_ID:
            raise TaskError(
                f"The task's `frame_index` holds {str(index)[:40]!r}, which is no frame.",
                "Do not change `frames` or `frame_index`; request a new prediction to have them written again.",
            )
    return held


def _read_region(
    item: Mapping[str, Any],
    config: LabelConfig,
    frame_index: Sequence[int],
    frame_map: FrameMap | None,
    content: AnnotationContent,
) -> None:
    name = item.get("from_name")
    value = item.get("value") or {}
    if name == config.control and config.view == "mask":
        _read_mask(item, value, config, frame_index, content)
    elif name == config.control:
        _read_boxes(item, value, frame_map, content)
    elif item.get("type") == "brushlabels" and config.view == "mask" and item.get("to_name") == config.object_name:
        _read_mask(item, value, config, frame_index, content)
    elif config.timeline is not None and name == config.timeline and config.view == "box":
        _read_events(value, frame_map, content)
    elif config.instruction and name == config.instruction.name:
        content.instruction = _lines(value)[-1] if _lines(value) else content.instruction
    elif config.caption and name == config.caption.name:
        content.captions |= _captions(_lines(value), config.labels)


def _result_list(
    annotation: Mapping[str, Any] | Sequence[Mapping[str, Any]],
) -> Sequence[Mapping[str, Any]]:
    results = annotation.get("result") if isinstance(annotation, Mapping) else annotation
    if not isinstance(results, Sequence) or isinstance(results, str):
        raise TaskError("The annotation has no list of results.", "Open it in Label Studio and save it again.")
    return results


def _read_mask(
    item: Mapping[str, Any],
    value: Mapping[str, Any],
    config: LabelConfig,
    frame_index: Sequence[int],
    content: AnnotationContent,
) -> None:
    # Label Studio omits item_index if the task has one picture.
    position = int(item.get("item_index") or 0)
    if not value.get("imageDataURL") and not value.get("rle"):
        return
    if not 0 <= position < len(frame_index):
        raise TaskError(
            f"The annotation has a mask on picture {position + 1}, but the task's frame_index has {len(frame_index)}.",
            "Do not change `frames` or `frame_index` of a task that has annotations.",
        )
    mask = _brush_mask(item, value) if value.get("rle") else png.from_url(str(value.get("imageDataURL") or ""))
    labels = _labels(value.get(config.result_type) or value.get("brushlabels"))
    content.pixels += mask.size
    if content.pixels > MOST_MASKS * frame_pixel_limit():
        raise TaskError(
            f"The masks of the annotation have {content.pixels / 1e6:.0f} million pixels in total, which is too many.",
            "Submit fewer pictures at a time.",
        )
    for label in labels:
        place = (label, int(frame_index[position]))
        held = content.masks.get(place)
        if held is not None and held.shape != mask.shape:
            raise TaskError(f"Two masks of {label!r} on frame {place[1] + 1} differ in size.", "Paint them again.")
        content.masks[place] = mask if held is None else held | mask
        if item.get("origin") != "prediction":
            content.edited.add(place)


def _brush_mask(item: Mapping[str, Any], value: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The mask of a BrushLabels region; its edges are antialiased where a person painted."""
    from label_studio_sdk.converter.brush import decode_rle

    try:
        size = int(item["original_height"]), int(item["original_width"])
        png.refuse_large(size[1], size[0])
        # The encoding starts with its unpacked size in bytes, and that much memory would be allocated.
        if int.from_bytes(bytes(value["rle"][:4]), "big") != size[0] * size[1] * 4:
            raise ValueError("its size differs from its picture's")
        mask: NDArray[np.bool_] = decode_rle(value["rle"]).reshape(*size, 4)[..., 3] > 127
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise TaskError(f"A brushed mask in the annotation cannot be read: {error}.", "Paint it again.") from error
    return mask


def _read_boxes(
    item: Mapping[str, Any], value: Mapping[str, Any], frame_map: FrameMap | None, content: AnnotationContent
) -> None:
    if frame_map is None:
        raise TaskError(
            "The annotation has boxes, but the frame times of its clip are not known.",
            "Make sure the worker can read the video; `trajseg doctor --project N` says why it cannot.",
        )
    sequence = value.get("sequence") or []
    try:
        drawn = box_keys.from_sequence(sequence, frame_map.editor_frames)
        keys = {int(key["frame"]) for key in sequence}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise TaskError(f"A box in the annotation cannot be read: {error!r}.", "Draw that box again.") from error
    numbers: dict[int, list[int]] = {}
    for number in range(1, frame_map.editor_frames + 1):
        numbers.setdefault(frame_map.index_of_editor_frame(number), []).append(number)
    for label in _labels(value.get("labels")):
        for index in range(len(frame_map)):
            shown_at = numbers.get(index, [])
            # If the editor counts faster than the clip, one frame has several numbers: a key frame was drawn on it.
            keyed = [number for number in shown_at if number in keys and number in drawn]
            number = keyed[-1] if keyed else frame_map.editor_frame(index)
            box = drawn.get(number) if shown_at else _between(drawn, frame_map, index)
            if box is None:
                continue
            content.boxes[label, index] = box
            if keyed:
                content.keyed.add((label, index))
            # Label Studio keeps "prediction" on boxes that were dragged, so the origin alone proves nothing.
            if item.get("origin") != "prediction":
                content.edited.add((label, index))


def _read_events(value: Mapping[str, Any], frame_map: FrameMap | None, content: AnnotationContent) -> None:
    if frame_map is None:
        # Boxes on unknown frames are rejected; ranges alone say nothing.
        return
    try:
        ranges = [(int(one["start"]), int(one["end"])) for one in value.get("ranges") or []]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise TaskError(f"A range on the timeline cannot be read: {error!r}.", "Draw that range again.") from error
    for label in _labels(value.get("timelinelabels")):
        inside = content.events.setdefault(label, set())
        for start, end in ranges:
            start, end = max(start, 1), min(end, frame_map.editor_frames)
            if start <= end:
                inside |= {*range(frame_map.index_of_editor_frame(start), frame_map.index_of_editor_frame(end) + 1)}


def _between(drawn: Mapping[int, box_keys.Box], frame_map: FrameMap, index: int) -> box_keys.Box | None:
    """The box of a frame that no editor number shows, interpolated between its nearest neighbours."""
    number = frame_map.editor_frame(index)
    before = number if frame_map.index_of_editor_frame(number) < index else max(number - 1, 1)
    after = before + 1
    here, there = drawn.get(before), drawn.get(after)
    start, end = (frame_map.times[frame_map.index_of_editor_frame(one)] for one in (before, after))
    if here is None or there is None or not start < frame_map.times[index] < end:
        return drawn.get(number)
    share = (frame_map.times[index] - start) / (end - start)
    x, y, width, height = (a * (1 - share) + b * share for a, b in zip(here, there, strict=True))
    return x, y, width, height


def _labels(labels: object) -> list[str]:
    """The labels of a region. Raises TaskError if they are no labels."""
    if not isinstance(labels, list | None) or not all(isinstance(label, str) for label in labels or []):
        raise TaskError(f"The labels of a region are {str(labels)[:80]!r}.", "Give that region a label again.")
    for label in labels or []:
        if len(label) > LONGEST_LABEL:
            raise TaskError(
                f"The label {label[:40]!r}... has {len(label)} characters; {LONGEST_LABEL} are allowed.",
                "Shorten it in the labelling configuration and in the annotation.",
            )
    return labels or []


def _lines(value: Mapping[str, Any]) -> list[str]:
    text = value.get("text") or []
    return [line.strip() for line in ([text] if isinstance(text, str) else text) if line.strip()]


def _captions(lines: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    captions: dict[str, str] = {}
    for line in lines:
        if line.startswith(WARNING):
            continue
        label, separator, caption = line.partition(": ")
        named = bool(separator) and label in labels
        captions[label if named else ""] = caption.strip() if named else line
    return captions
