"""Mask tracks as Label Studio results, in the mask view and in the box view.

A result is one JSON object of Label Studio's `result` list. The mask view has one BitmaskLabels result per track and
shown frame on which the track is visible; the box view has one VideoRectangle result per track.
A track is identified by its label: Label Studio keeps labels, but drops ids and meta from what is drawn again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from backend.label_studio import boxes as box_keys
from backend.label_studio import png
from backend.label_studio.incoming.annotation import WARNING, from_annotation
from backend.label_studio.outgoing import words
from label_config import LabelConfig, TextTag, View
from trajseg.errors import LabelConfigError
from trajseg.palette import colour
from trajseg.tracks import MaskTrack, Result
from trajseg.video import FrameMap

__all__ = [
    "LabelStudioResult",
    "answer_result",
    "assign_labels",
    "frame_numbers",
    "from_annotation",
    "score",
    "to_results",
    "tracks_digest",
]

LabelStudioResult = dict[str, Any]


def to_results(
    result: Result,
    view: View,
    config: LabelConfig,
    key_frames: Sequence[int],
    frame_map: FrameMap | None = None,
    *,
    frame_rate: float | None = None,
    job_id: str = "",
    delivery_id: str = "",
    digest: str = "",
    texts: bool = True,
    warnings: Sequence[str] = (),
    about: str = "",
) -> list[LabelStudioResult]:
    """The results that show `result` in a project with this labelling configuration.

    Args:
        result: the tracks; without tracks only the texts are returned.
        view: must be the view of `config`.
        key_frames: 0-based frame indices in the order of the task's `frames`; unused in the box view.
        frame_map: the clip's; defaults to the tracks' times. Unused in the mask view.
        frame_rate: frames per second that the editor counts (`config.rate_for(task.data)`). Defaults to the rate
            fixed by the configuration, else the clip's.
        job_id: written into every result's meta, so that a delivery can tell whether it was already made.
        delivery_id: the same.
        digest: of the tracks (`tracks_digest`); written to meta too, for comparing predictions.
        texts: whether to fill in the text areas for instruction and captions too. Leave them out of an answer
            to a request typed there: they would overwrite what is on the page.
        warnings: sentences for the annotator, shown in the answer's text area, or below the captions if
            there is none.
        about: describes the prediction, for the answer's text area.

    Raises LabelConfigError if the configuration has another view, or fewer labels than there are tracks.
    """
    if view != config.view:
        raise LabelConfigError(
            f"The project's labelling configuration is for the view {config.view!r}, not {view!r}.",
            f'Use label_config/{view}_tracks.xml for the view "{view}".',
        )
    meta: dict[str, Any] = {"job_id": job_id, "delivery_id": delivery_id} if job_id else {}
    if digest:
        meta["tracks_digest"] = digest
    labels = assign_labels(result.tracks, config)
    frame_rate = frame_rate or config.frame_rate
    prefix = (delivery_id or job_id or "trajseg")[:8]
    results: list[LabelStudioResult] = []
    for number, (track, label) in enumerate(zip(result.tracks, labels, strict=True), 1):
        name = f"{prefix}-{number}"
        shown: dict[str, Any] = {**meta, "track_uid": track.uid}
        if view == "mask":
            paint = colour(config.labels.index(label))
            numbers = frame_numbers(result, frame_rate)
            results += _mask_results(result, track, label, config, key_frames, name, shown, paint, numbers)
        else:
            editor_map = frame_map or FrameMap(tuple(frame.time for frame in track.frames), result.fps)
            if frame_rate is not None:
                editor_map = editor_map.at_rate(frame_rate)
            if track.caption:
                shown["text"] = [track.caption]
            box = _box_result(result, track, label, config, editor_map, name, shown)
            results += [box] if box else []
            if config.timeline and label in config.timeline_labels:
                results += _events(track, label, config, editor_map, name, shown)
    if texts:
        captions = [
            f"{label}: {track.caption}"
            for track, label in zip(result.tracks, labels, strict=True)
            if track.caption or config.answer is None
        ]
        lines = [f"{WARNING}{warning}" for warning in warnings]
        if config.answer is None:
            # Older projects have no other place for it.
            captions += lines if result.tracks else [words.nothing(result), *lines]
        results += _text_result(config.instruction, [result.instruction], f"{prefix}-instruction", meta)
        results += _text_result(config.caption, captions, f"{prefix}-caption", meta)
        results += _text_result(config.answer, [about, *lines], f"{prefix}-answer", meta)
    return results


def answer_result(config: LabelConfig, text: str, job_id: str = "") -> list[LabelStudioResult]:
    """A sentence for the answer's text area alone; empty if the project has none."""
    return _text_result(
        config.answer, [text], f"{job_id[:8] or 'trajseg'}-answer", {"job_id": job_id} if job_id else {}
    )


def instructions(config: LabelConfig, lines: Sequence[str]) -> list[LabelStudioResult]:
    """The new content of the instruction's text area, possibly empty."""
    if config.instruction is None:
        return []
    [result] = _text_result(config.instruction, ["-"], "trajseg-instruction", {})
    return [{**result, "value": {"text": list(lines)}}]


def frame_numbers(result: Result, frame_rate: float | None = None) -> Callable[[int], int]:
    """Maps a 0-based frame to its number in Label Studio's video, from 1.

    Args:
        frame_rate: frames per second that the editor counts; defaults to the clip's.
    """
    if not result.tracks:
        return lambda index: index + 1
    frame_map = FrameMap(tuple(frame.time for frame in result.tracks[0].frames), frame_rate or result.fps)
    return frame_map.editor_frame


def score(result: Result) -> float:
    """The prediction's score: the mean of its tracks' scores, 0 without tracks."""
    scores = [track.score for track in result.tracks]
    return sum(scores) / len(scores) if scores else 0.0


def tracks_digest(result: Result) -> str:
    """A digest of instruction, labels and masks; results that differ only in captions share it."""
    tracks = [[track.uid, track.label, [frame.rle for frame in track.frames]] for track in result.tracks]
    form = json.dumps([result.instruction, tracks], default=_text, sort_keys=True)
    return hashlib.sha256(form.encode()).hexdigest()[:32]


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def assign_labels(tracks: Sequence[MaskTrack], config: LabelConfig) -> list[str]:
    """One label per track, all different: the track's own if the project has it, else the next free one.

    Raises LabelConfigError if there are more tracks than labels.
    """
    if len(tracks) > len(config.labels):
        raise LabelConfigError(
            f"There are {len(tracks)} tracks, but the project has only {len(config.labels)} labels.",
            "Add labels (track-1, track-2, ...) to the project's labelling configuration.",
        )
    own: dict[int, str] = {}
    for number, track in enumerate(tracks):
        if track.label in config.labels and track.label not in own.values():
            own[number] = track.label
    free = iter([label for label in config.labels if label not in own.values()])
    return [own[number] if number in own else next(free) for number in range(len(tracks))]


def _mask_results(
    result: Result,
    track: MaskTrack,
    label: str,
    config: LabelConfig,
    key_frames: Sequence[int],
    name: str,
    meta: dict[str, Any],
    paint: str,
    numbers: Callable[[int], int],
) -> list[LabelStudioResult]:
    results = []
    for item_index, index in enumerate(key_frames):
        frame = track.frames[index]
        if frame.rle is None:
            continue
        results.append(
            {
                "id": f"{name}-{index}",
                "from_name": config.control,
                "to_name": config.object_name,
                "type": config.result_type,
                "origin": "prediction",
                "score": round(float(frame.score), 4),
                "item_index": item_index,
                "original_width": result.width,
                "original_height": result.height,
                "image_rotation": 0,
                # The text is shown beside the region: the editor itself shows only the picture's position.
                "meta": {
                    **meta,
                    "frame": index,
                    "text": [f"Frame {numbers(index)}" + (f": {track.caption}" if track.caption else "")],
                },
                "value": {"imageDataURL": png.to_url(track.mask(index), paint), config.result_type: [label]},
            }
        )
    return results


def _box_result(
    result: Result,
    track: MaskTrack,
    label: str,
    config: LabelConfig,
    frame_map: FrameMap,
    name: str,
    meta: dict[str, Any],
) -> LabelStudioResult | None:
    shown = {index: box for index in range(len(track.frames)) if (box := track.box(index)) is not None}
    if not shown:
        return None
    scale = (100 / result.width, 100 / result.height) * 2
    last = frame_map.editor_frames
    percent: dict[int, box_keys.Box] = {}
    for frame in range(1, last + 1):
        box = shown.get(frame_map.index_of_editor_frame(frame))
        if box is not None:
            x, y, width, height = (side * factor for side, factor in zip(box, scale, strict=True))
            percent[frame] = (x, y, width, height)
    if not percent:
        return None
    return {
        "id": name,
        "from_name": config.control,
        "to_name": config.object_name,
        "type": config.result_type,
        "origin": "prediction",
        "score": round(float(track.score), 4),
        "meta": meta,
        "value": {
            "framesCount": last,
            "duration": round(last / frame_map.fps, 6),
            "labels": [label],
            "sequence": box_keys.to_sequence(percent, last, frame_map.fps),
        },
    }


def _events(
    track: MaskTrack, label: str, config: LabelConfig, frame_map: FrameMap, name: str, meta: dict[str, Any]
) -> list[LabelStudioResult]:
    """A range on the timeline for each run of editor frames (from 1) in which a track is visible."""
    there = [
        frame
        for frame in range(1, frame_map.editor_frames + 1)
        if track.frames[frame_map.index_of_editor_frame(frame)].rle is not None
    ]
    stretches: list[list[int]] = []
    for frame in there:
        if stretches and stretches[-1][1] == frame - 1:
            stretches[-1][1] = frame
        else:
            stretches.append([frame, frame])
    return [
        {
            "id": f"{name}-event-{start}",
            "from_name": config.timeline,
            "to_name": config.object_name,
            "type": "timelinelabels",
            "origin": "prediction",
            "meta": dict(meta),
            "value": {"ranges": [{"start": start, "end": end}], "timelinelabels": [label]},
        }
        for start, end in stretches
    ]


def _text_result(tag: TextTag | None, lines: list[str], name: str, meta: dict[str, Any]) -> list[LabelStudioResult]:
    lines = [line for line in lines if line.strip()]
    if tag is None or not lines:
        return []
    return [
        {
            "id": name,
            "from_name": tag.name,
            "to_name": tag.to_name,
            "type": "textarea",
            "origin": "prediction",
            "meta": dict(meta),
            "value": {"text": lines},
        }
    ]
