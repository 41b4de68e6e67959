"""JSON form of a clip of one video file, for communication between the decoder's process and its parent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from trajseg.video.clip import Clip
from trajseg.video.frame_map import FrameMap


def clip_to_json(clip: Clip) -> dict[str, Any]:
    """The JSON form of a clip of one video file; floats are preserved exactly."""
    form: dict[str, Any] = {field.name: getattr(clip, field.name) for field in fields(Clip)}
    return {
        **form,
        "path": str(clip.path),
        "frame_map": {"times": clip.frame_map.times, "fps": clip.frame_map.fps},
        "notes": list(clip.notes),
    }


def clip_fields(form: Mapping[str, Any]) -> dict[str, Any]:
    """Clip's arguments from the output of `clip_to_json`."""
    frame_map = FrameMap(tuple(form["frame_map"]["times"]), form["frame_map"]["fps"])
    return {**form, "path": Path(form["path"]), "frame_map": frame_map, "notes": tuple(form["notes"])}
