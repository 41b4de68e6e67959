"""Validates results before they are posted: Label Studio accepts invalid ones and then shows nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backend.label_studio import png
from label_config import LabelConfig


def problems(
    results: Sequence[Mapping[str, Any]], config: LabelConfig, pictures: int, size: tuple[int, int]
) -> list[str]:
    """What Label Studio would silently accept and then not show; empty if everything is valid.

    Args:
        results: what is about to be posted.
        pictures: how many pictures the task's `frames` has (mask view).
        size: width and height of the video, pixels.
    """
    found: list[str] = []
    texts = {tag.name: tag.to_name for tag in (config.instruction, config.caption, config.answer) if tag}
    ids: set[str] = set()
    for item in results:
        where = f"result {item.get('id')!r}"
        value = item.get("value") or {}
        if item.get("id") in ids or not item.get("id"):
            found.append(f"{where}: the id is missing or duplicated")
        ids.add(str(item.get("id")))
        name, target, kind = item.get("from_name"), item.get("to_name"), item.get("type")
        if name in texts:
            if (target, kind) != (texts[str(name)], "textarea") or not all(isinstance(t, str) for t in value["text"]):
                found.append(f"{where}: not a text of {name!r}")
            continue
        if name == config.timeline and config.timeline:
            if (target, kind) != (config.object_name, "timelinelabels") or not _are_ranges(value):
                found.append(f"{where}: not a range of the timeline {name!r}")
            continue
        if (name, target, kind) != (config.control, config.object_name, config.result_type):
            found.append(f"{where}: {name!r} on {target!r} of type {kind!r} is not in the labelling configuration")
            continue
        labels = value.get("labels" if config.view == "box" else "bitmasklabels") or []
        if len(labels) != 1 or labels[0] not in config.labels:
            found.append(f"{where}: labels {labels!r} are not one label of the project")
        found += [f"{where}: {text}" for text in _value_problems(item, value, config, pictures, size)]
    return found


def _are_ranges(value: Mapping[str, Any]) -> bool:
    return all(1 <= one["start"] <= one["end"] for one in value.get("ranges") or [{"start": 0, "end": 0}])


def _value_problems(
    item: Mapping[str, Any],
    value: Mapping[str, Any],
    config: LabelConfig,
    pictures: int,
    size: tuple[int, int],
) -> list[str]:
    if config.view == "mask":
        found = []
        if not 0 <= item.get("item_index", -1) < pictures:
            found.append(f"item_index {item.get('item_index')} of a task with {pictures} pictures")
        if (item.get("original_width"), item.get("original_height")) != size:
            found.append(f"original size is not the video's {size[0]} x {size[1]}")
        width, height = png.size(value["imageDataURL"])
        if (width, height) != size:
            found.append(f"the mask is {width} x {height}, the video {size[0]} x {size[1]}")
        return found
    frames = [key["frame"] for key in value["sequence"]]
    if not frames or frames[0] < 1 or frames != sorted(set(frames)) or frames[-1] > value["framesCount"]:
        return [f"key frames {frames} do not increase within 1 to {value['framesCount']}"]
    outside = [
        key["frame"]
        for key in value["sequence"]
        if min(key["x"], key["y"], key["width"], key["height"]) < 0
        or max(key["x"] + key["width"], key["y"] + key["height"]) > 100.001
    ]
    return [f"the box is outside the picture on frames {outside}"] if outside else []
