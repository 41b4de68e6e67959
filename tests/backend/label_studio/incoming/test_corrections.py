"""Corrections are detected frame by frame, by content and not by Label Studio's ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.label_studio.incoming.annotation import AnnotationContent, from_annotation
from backend.label_studio.incoming.corrections import Predicted, Source, changes, digest, sources
from backend.store import Change
from label_config import fill, parse
from trajseg.tracks import rle
from trajseg.video import FrameMap

PAYLOADS = Path(__file__).parents[3] / "label_studio_payloads"


def square(left: int, top: int = 4, side: int = 6) -> np.ndarray:
    mask = np.zeros((24, 32), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def kinds(found: list[Change]) -> dict[tuple[str, int], str]:
    return {(change.label, change.frame_index): change.kind for change in found}


def test_each_frame_is_unchanged_edited_added_or_removed() -> None:
    before = Predicted(
        AnnotationContent(masks={("track-1", 0): square(0), ("track-1", 5): square(5), ("track-1", 9): square(9)}),
        {"track-1": Source("job", "t1", "trajseg-tiny")},
    )
    now = AnnotationContent(masks={("track-1", 0): square(0), ("track-1", 5): square(6), ("track-1", 7): square(7)})
    found = changes(now, before)
    assert kinds(found) == {
        ("track-1", 0): "unchanged",
        ("track-1", 5): "edited",
        ("track-1", 7): "added",
        ("track-1", 9): "removed",
    }
    assert [change.vouched for change in found] == [False, True, True, True]
    assert {(change.job_id, change.track_uid, change.model_version) for change in found} == {
        ("job", "t1", "trajseg-tiny")
    }
    left = {change.frame_index: change.rle for change in found}
    assert left[5]
    assert np.array_equal(rle.decode(left[5]), square(6))
    assert left[9] is None


def test_a_single_pixel_counts() -> None:
    touched = square(0)
    touched[20, 30] = True
    before = Predicted(AnnotationContent(masks={("track-1", 0): square(0)}))
    assert kinds(changes(AnnotationContent(masks={("track-1", 0): touched}), before)) == {("track-1", 0): "edited"}


def test_a_mask_that_was_rubbed_out_wholly_is_removed() -> None:
    before = Predicted(AnnotationContent(masks={("track-1", 0): square(0)}))
    now = AnnotationContent(masks={("track-1", 0): np.zeros((24, 32), bool)})
    assert kinds(changes(now, before)) == {("track-1", 0): "removed"}


def test_what_a_person_drew_belongs_to_no_job() -> None:
    (change,) = changes(AnnotationContent(masks={("track-3", 2): square(0)}), Predicted())
    assert (change.kind, change.track_uid, change.job_id) == ("added", "drawn-track-3", None)


def test_boxes_are_compared_at_key_frames_and_where_they_are_gone() -> None:
    """Nobody has confirmed the boxes that Label Studio interpolates between two key frames."""
    before = Predicted(AnnotationContent(boxes={("track-1", index): (10.0, 10.0, 20.0, 20.0) for index in range(6)}))
    now = AnnotationContent(
        boxes={("track-1", index): (10.0 + index, 10.0, 20.0, 20.0) for index in range(4)},
        keyed={("track-1", 0), ("track-1", 3)},
    )
    found = changes(now, before, size=(200, 100))
    assert kinds(found) == {
        ("track-1", 0): "unchanged",
        ("track-1", 3): "edited",
        ("track-1", 4): "removed",
        ("track-1", 5): "removed",
    }
    assert found[1].box == (26.0, 10.0, 40.0, 20.0)


def test_one_digest_for_the_same_changes_whatever_was_left_unchanged() -> None:
    edited = Change("track-1", 3, "edited", "t1", rle=rle.encode(square(1)))
    same = Change("track-1", 0, "unchanged", "t1", rle=rle.encode(square(0)))
    assert digest([edited, same]) == digest([edited])
    assert digest([edited]) != digest([Change("track-1", 3, "edited", "t1", rle=rle.encode(square(2)))])


def test_the_recorded_dragged_video_box_is_recognised_although_its_origin_says_prediction() -> None:
    (annotation,) = json.loads((PAYLOADS / "roundtrip_A_videorectangle_annotation.json").read_text())
    item = annotation["result"][0]
    assert item["origin"] == "prediction"
    label = item["value"]["labels"][0]
    config = parse(fill("box", [label]))
    results = [{**one, "from_name": config.control} for one in annotation["result"]]
    frame_map = FrameMap(tuple(index / 25 for index in range(60)), 25.0)
    now = from_annotation(results, config, frame_map=frame_map)
    predicted: dict[str, Any] = json.loads(json.dumps(results[0]))
    for key in predicted["value"]["sequence"]:
        if key["frame"] == 11:
            # Between its neighbours, where it was before a person dragged it.
            key.update(x=19.14, y=30.97, width=11.875, height=53.19)
    before = Predicted(from_annotation([predicted], config, frame_map=frame_map))
    told = {index for (_, index), kind in kinds(changes(now, before, (640, 360))).items() if kind == "edited"}
    assert 10 in told


@pytest.mark.parametrize("name", ["roundtrip_B1_brush_rle_annotation.json", "roundtrip_B2_bitmask_annotation.json"])
def test_recorded_masks_are_read_and_the_painted_one_is_recognised(name: str) -> None:
    (annotation,) = json.loads((PAYLOADS / name).read_text())
    config = parse(fill("mask", ["track-1"]))
    frame_index = [0, 5, 10, 15, 20, 25, 30, 35, 40, 45]
    now = from_annotation(annotation, config, frame_index)
    assert now.masks.keys() == {("track-1", 0), ("track-1", 15)}
    assert now.masks["track-1", 15].shape == (360, 640)
    assert now.edited == {("track-1", 15)}
    before = Predicted(AnnotationContent(masks={**now.masks, ("track-1", 15): now.masks["track-1", 0]}))
    assert kinds(changes(now, before)) == {("track-1", 0): "unchanged", ("track-1", 15): "edited"}


def test_sources_are_read_from_the_meta_of_our_own_regions() -> None:
    region = {
        "from_name": "mask",
        "meta": {"job_id": "j", "track_uid": "t1"},
        "value": {"bitmasklabels": ["track-1"]},
    }
    drawn = {"from_name": "mask", "value": {"bitmasklabels": ["track-2"]}}
    assert sources([region, drawn], "mask", "v") == {"track-1": Source("j", "t1", "v")}
