"""Tracks survive the round trip through Label Studio results and annotations exactly."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.label_studio import boxes, png
from backend.label_studio.outgoing import views
from backend.label_studio.setup import checks
from label_config import fill, parse, track_labels
from trajseg.errors import LabelConfigError, TaskError
from trajseg.tracks import MaskTrack, Result
from trajseg.video import FrameMap, open_clip

RECORDED = Path(__file__).parents[3] / "label_studio_payloads"


def make_result(
    tracks: list[list[np.ndarray | None]], fps: float = 10.0, times: Sequence[float] | None = None
) -> Result:
    shape = next(mask.shape for masks in tracks for mask in masks if mask is not None)
    times = times or tuple(index / fps for index in range(len(tracks[0])))
    made = [
        MaskTrack.from_masks(
            f"t{n}",
            masks,
            times,
            [0.5 + 0.01 * i for i in range(len(masks))],
            label=f"track-{n}",
            caption=f"object {n}",
        )
        for n, masks in enumerate(tracks, 1)
    ]
    return Result("v.mp4", fps, shape[1], shape[0], len(times), "all of them", "", "m", made)


def blobs(count: int, shape: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    """Ragged masks with holes; one is a single pixel, one the whole picture."""
    chance = np.random.default_rng(seed)
    masks = [chance.random(shape) < 0.5 for _ in range(count)]
    masks[0][:] = False
    masks[0][-1, -1] = True
    if count > 1:
        masks[1][:] = True
    return masks


@pytest.mark.parametrize("shape", [(24, 32), (35, 51), (1, 7), (63, 1)])
def test_masks_of_any_size_come_back_pixel_for_pixel(shape: tuple[int, int]) -> None:
    masks: list[np.ndarray | None] = [*blobs(5, shape), None, *blobs(2, shape, 1)]
    result = make_result([masks, masks[::-1]])
    config = parse(fill("mask"))
    key_frames = [0, 1, 3, 5, 7]
    results = views.to_results(result, "mask", config, key_frames, job_id="j")
    assert checks.problems(results, config, len(key_frames), (shape[1], shape[0])) == []
    said = views.from_annotation(json.loads(json.dumps(results)), config, key_frames)
    wanted = {
        (label, index): mask
        for label, track in (("track-1", masks), ("track-2", masks[::-1]))
        for index in key_frames
        if (mask := track[index]) is not None
    }
    assert said.masks.keys() == wanted.keys()
    assert all(np.array_equal(said.masks[place], wanted[place]) for place in wanted)
    assert said.edited == set()
    assert said.instruction == "all of them"
    assert said.captions == {"track-1": "object 1", "track-2": "object 2"}


def test_thirty_tracks_keep_apart() -> None:
    masks: list[list[np.ndarray | None]] = [[blobs(1, (16, 16), n)[0], np.eye(16, dtype=bool)] for n in range(30)]
    config = parse(fill("mask", track_labels(30)))
    results = views.to_results(make_result(masks), "mask", config, [0, 1])
    said = views.from_annotation(results, config, [0, 1])
    assert len(said.masks) == 60
    assert len({item["id"] for item in results}) == len(results)


def test_a_mask_is_transparent_outside() -> None:
    mask = np.zeros((4, 5), bool)
    mask[1, 2] = True
    data = base64.b64decode(png.to_url(mask, "#ff3366").partition(",")[2])
    rgba = np.asarray(Image.open(io.BytesIO(data)))
    assert rgba.shape == (4, 5, 4)
    assert rgba[1, 2].tolist() == [255, 51, 102, 255]
    assert rgba[0, 0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("url", ["", "data:image/png;base64,%%%", "data:image/png;base64,aGVsbG8=", "http://x/y.png"])
def test_what_is_no_mask_is_refused(url: str) -> None:
    with pytest.raises(TaskError):
        png.from_url(url)


def test_an_answer_to_a_typed_instruction_has_no_texts() -> None:
    results = views.to_results(make_result([[blobs(1, (4, 4))[0]]]), "mask", parse(fill("mask")), [0], texts=False)
    assert [item["type"] for item in results] == ["bitmasklabels"]


def test_a_track_keeps_its_label_where_the_project_has_it_and_takes_a_free_one_else() -> None:
    result = make_result([[blobs(1, (4, 4))[0]]] * 3)
    for track, label in zip(result.tracks, ("person", "car", "car"), strict=True):
        track.label = label
    assert views.assign_labels(result.tracks, parse(fill("mask", ["car", "bus", "x"]))) == ["bus", "car", "x"]
    with pytest.raises(LabelConfigError):
        views.assign_labels(result.tracks, parse(fill("mask", ["car", "bus"])))


def test_the_other_view_is_refused() -> None:
    with pytest.raises(LabelConfigError):
        views.to_results(make_result([[blobs(1, (4, 4))[0]]]), "box", parse(fill("mask")), [0])


def test_a_recorded_annotation_of_masks_is_read_with_what_a_person_changed() -> None:
    annotation = json.loads((RECORDED / "roundtrip_B2_bitmask_annotation.json").read_text())[0]
    said = views.from_annotation(annotation, parse(fill("mask")), list(range(0, 60, 5)))
    assert set(said.masks) == {("track-1", 0), ("track-1", 15)}
    assert said.edited == {("track-1", 15)}
    assert all(mask.shape == (360, 640) for mask in said.masks.values())
    assert int(said.masks["track-1", 0].sum()) == 8471


def test_a_recorded_annotation_of_boxes_is_read_with_its_gap() -> None:
    annotation = json.loads((RECORDED / "roundtrip_A_videorectangle_annotation.json").read_text())[0]
    config = parse(
        '<View><Labels name="labels" toName="video"><Label value="target"/></Labels><Video name="video" '
        'value="$video" frameRate="25"/><VideoRectangle name="box" toName="video"/></View>'
    )
    frame_map = FrameMap(tuple(index / 25 for index in range(60)), 25.0)
    said = views.from_annotation(annotation, config, frame_map=frame_map)
    (label,) = {label for label, _ in said.boxes}
    assert sorted(index for _, index in said.boxes) == [*range(30), *range(36, 60)]
    assert said.boxes[label, 0] == pytest.approx((7.0312, 25, 11.0938, 50.2778))


def test_a_mask_on_a_picture_that_the_task_does_not_have_is_refused() -> None:
    annotation = json.loads((RECORDED / "roundtrip_B2_bitmask_annotation.json").read_text())[0]
    with pytest.raises(TaskError, match="picture 4"):
        views.from_annotation(annotation, parse(fill("mask")), [0, 5])


def test_two_regions_of_one_label_on_one_picture_are_one_mask() -> None:
    config = parse(fill("mask"))
    left, right = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    left[:, 0], right[:, 5] = True, True
    value = [{"imageDataURL": png.to_url(mask), "bitmasklabels": ["track-1"]} for mask in (left, right)]
    drawn: list[dict[str, Any]] = [
        {"from_name": "mask", "origin": "manual", "item_index": 0, "value": value[0]},
        {"from_name": "mask", "origin": "prediction", "value": value[1]},
    ]
    said = views.from_annotation(drawn, config, [7])
    assert np.array_equal(said.masks["track-1", 7], left | right)
    assert said.edited == {("track-1", 7)}


def moving(count: int, gaps: tuple[int, ...] = ()) -> list[np.ndarray | None]:
    masks: list[np.ndarray | None] = []
    for index in range(count):
        mask = np.zeros((100, 200), bool)
        left = int(80 + 60 * np.sin(index / 9))
        mask[10 + index : 40 + index, left : left + 30 + index // 4] = True
        masks.append(None if index in gaps else mask)
    return masks


def drawn_boxes(result: Result, frame_map: FrameMap) -> tuple[list[dict], dict]:
    config = parse(fill("box"))
    results = views.to_results(result, "box", config, [], frame_map)
    assert checks.problems(results, config, 0, (result.width, result.height)) == []
    return results, views.from_annotation(results, config, frame_map=frame_map).boxes


def test_boxes_stay_within_the_tolerance_with_far_fewer_key_frames() -> None:
    result = make_result([moving(48)], fps=25.0)
    frame_map = FrameMap(tuple(index / 25 for index in range(48)), 25.0)
    results, drawn = drawn_boxes(result, frame_map)
    assert len(results[0]["value"]["sequence"]) < 30
    for index in range(48):
        box = result.tracks[0].box(index)
        assert box
        x, y, width, height = box
        wanted = (x / 2, y, width / 2, height)
        assert drawn["track-1", index] == pytest.approx(wanted, abs=boxes.TOLERANCE + 0.001)


def test_a_box_is_hidden_exactly_where_the_object_is() -> None:
    gaps = (0, 1, 10, 20, 21, 22, 47)
    result = make_result([moving(48, gaps)], fps=25.0)
    frame_map = FrameMap(tuple(index / 25 for index in range(48)), 25.0)
    results, drawn = drawn_boxes(result, frame_map)
    assert sorted(index for _, index in drawn) == [index for index in range(48) if index not in gaps]
    sequence = results[0]["value"]["sequence"]
    assert sequence[0]["frame"] == 3
    assert [key["frame"] for key in sequence if not key["enabled"]] == [10, 20, 47]


def test_an_object_in_a_single_frame_is_shown_there_alone() -> None:
    masks = moving(10, tuple(i for i in range(10) if i != 4))
    _, drawn = drawn_boxes(make_result([masks]), FrameMap(tuple(i / 10 for i in range(10)), 10.0))
    assert [index for _, index in drawn] == [4]


def test_a_track_that_is_never_seen_has_no_box() -> None:
    shown = make_result([[np.ones((4, 4), bool)] * 3, [None] * 3])
    results = views.to_results(shown, "box", parse(fill("box")), [], texts=False)
    assert [item["value"]["labels"] for item in results] == [["track-1"]]


def test_boxes_of_a_clip_with_a_varying_rate_are_on_the_frames_that_the_editor_shows(clips: Path) -> None:
    frame_map = open_clip(clips / "variable_frame_rate.mp4").frame_map
    masks = moving(len(frame_map))
    result = make_result([masks], fps=frame_map.fps, times=frame_map.times)
    results, _ = drawn_boxes(result, frame_map)
    last = results[0]["value"]["framesCount"]
    drawn = boxes.from_sequence(results[0]["value"]["sequence"], last)
    for frame in range(1, last + 1):
        box = result.tracks[0].box(frame_map.index_of_editor_frame(frame))
        assert box
        x, y, width, height = box
        assert drawn[frame] == pytest.approx((x / 2, y, width / 2, height), abs=boxes.TOLERANCE + 0.001)


STOCK = (
    '<View><Labels name="track" toName="video"><Label value="track-1"/></Labels>'
    '<Video name="video" value="$video" {}/><VideoRectangle name="box" toName="video"/></View>'
)


@pytest.mark.parametrize("fps", [12.0, 30.0, 60000 / 1001])
@pytest.mark.parametrize(
    ("attribute", "rate"), [('framerate="25.0"', 25.0), ('frameRate="50"', 50.0), ("", 24.0), ('frameRate="$r"', 7.5)]
)
def test_boxes_lie_on_the_frames_that_an_editor_with_another_rate_shows(
    fps: float, attribute: str, rate: float
) -> None:
    config = parse(STOCK.format(attribute))
    masks = moving(60, gaps=(7, 30, 31, 32))
    result = make_result([masks], fps=fps)
    clip_map = FrameMap(tuple(index / fps for index in range(60)), fps)
    results = views.to_results(result, "box", config, [], clip_map, frame_rate=config.rate_for({"r": "7.5"}))
    value = results[0]["value"]
    assert value["framesCount"] == pytest.approx(60 / fps * rate, abs=0.51)
    assert value["duration"] == pytest.approx(60 / fps, abs=0.51 / rate)
    drawn = boxes.from_sequence(value["sequence"], value["framesCount"])
    for number in range(1, value["framesCount"] + 1):
        index = min(int(((number - 1) / rate + 0.002) * fps), 59)
        box = result.tracks[0].box(index)
        assert (number in drawn) == (box is not None)
        if box is not None:
            x, y, width, height = box
            assert drawn[number] == pytest.approx((x / 2, y, width / 2, height), abs=boxes.TOLERANCE + 0.001)


@pytest.mark.parametrize(("fps", "rate"), [(30.0, 24.0), (30.0, 25.0), (12.0, 24.0), (25.0, 60.0)])
def test_boxes_are_read_back_at_the_editors_rate(fps: float, rate: float) -> None:
    config = parse(STOCK.format(f'frameRate="{rate}"'))
    result = make_result([moving(60)], fps=fps)
    clip_map = FrameMap(tuple(index / fps for index in range(60)), fps)
    results = views.to_results(result, "box", config, [], clip_map)
    said = views.from_annotation(results, config, frame_map=clip_map)
    assert sorted(index for _, index in said.boxes) == list(range(60))
    last_shown = clip_map.at_rate(rate).index_of_editor_frame(results[0]["value"]["framesCount"])
    for index in range(last_shown + 1):
        box = result.tracks[0].box(index)
        assert box
        x, y, width, height = box
        # Frames that the editor cannot show are interpolated between two boxes, within the tolerance.
        assert said.boxes["track-1", index] == pytest.approx((x / 2, y, width / 2, height), abs=1.5 * boxes.TOLERANCE)


def test_a_box_drawn_at_a_number_is_on_the_frame_that_the_editor_showed() -> None:
    config = parse(STOCK.format('framerate="24"'))
    clip_map = FrameMap(tuple(index / 12 for index in range(30)), 12.0)
    key = {"enabled": False, "rotation": 0, "x": 10, "y": 20, "width": 30, "height": 40}
    for number, index in ((1, 0), (2, 0), (3, 1), (12, 5), (60, 29)):
        value = {"labels": ["track-1"], "sequence": [{"frame": number, **key}]}
        drawn = {"from_name": "box", "to_name": "video", "type": "videorectangle", "origin": "manual", "value": value}
        said = views.from_annotation([drawn], config, frame_map=clip_map)
        assert said.boxes == {("track-1", index): (10, 20, 30, 40)}
        assert said.keyed == {("track-1", index)}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"from_name": "nope"}, "nope"),
        ({"type": "brushlabels"}, "brushlabels"),
        ({"item_index": 9}, "item_index 9"),
        ({"original_width": 9}, "original size"),
        ({"id": ""}, "id"),
        ({"value": {"imageDataURL": png.to_url(np.ones((4, 4), bool)), "bitmasklabels": ["x"]}}, "labels"),
        (
            {"value": {"imageDataURL": png.to_url(np.ones((3, 4), bool)), "bitmasklabels": ["track-1"]}},
            "4 x 3",
        ),
    ],
)
def test_what_label_studio_would_take_and_not_show_is_found(change: dict[str, Any], complaint: str) -> None:
    config = parse(fill("mask"))
    results = views.to_results(make_result([[blobs(1, (4, 4))[0]]]), "mask", config, [0])
    results[0] |= change
    assert any(complaint in problem for problem in checks.problems(results, config, 1, (4, 4)))


def test_label_studios_own_validator_has_no_objection(result: Result) -> None:
    from label_studio_sdk.label_interface.interface import LabelInterface

    for view in ("mask", "box"):
        results = views.to_results(result, view, parse(fill(view)), [0, 1, 2, 3], job_id="j")
        prediction = {"model_version": "m", "score": 0.5, "result": results}
        assert LabelInterface(fill(view)).validate_prediction(prediction, return_errors=True) == []


def test_a_timeline_gets_a_range_for_each_stretch_in_which_a_track_shows(result: Result) -> None:
    tag = '<TimelineLabels name="events" toName="video"><Label value="track-1"/></TimelineLabels>'
    xml = f"{fill('box', ['track-1', 'track-2']).removesuffix('</View>')}{tag}</View>"
    config = parse(xml)
    assert (config.timeline, config.timeline_labels) == ("events", ("track-1",))
    [track] = result.tracks
    frames = [replace(frame, rle=None) if frame.index == 1 else frame for frame in track.frames]
    shown = replace(result, tracks=[replace(track, frames=frames)])
    results = views.to_results(shown, "box", config, [], frame_rate=10.0, job_id="j")
    events = [item for item in results if item["type"] == "timelinelabels"]
    assert [item["value"] for item in events] == [
        {"ranges": [{"start": 1, "end": 1}], "timelinelabels": ["track-1"]},
        {"ranges": [{"start": 3, "end": 3}], "timelinelabels": ["track-1"]},
    ]
    assert {(item["from_name"], item["to_name"]) for item in events} == {("events", "video")}
    assert checks.problems(results, config, 0, (32, 24)) == []
    assert views.to_results(shown, "box", parse(fill("box", ["track-1"])), [], frame_rate=10.0, job_id="j")[0][
        "type"
    ] != ("timelinelabels")
