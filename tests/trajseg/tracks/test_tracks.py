"""Mask tracks as data: run-length codes, boxes, the JSON form that other programs rely on, key frames."""

from __future__ import annotations

import copy
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import label_config
from trajseg.errors import InputError
from trajseg.palette import PALETTE, palette
from trajseg.tracks import MaskTrack, Result, key_frames, rle

HEIGHT, WIDTH = 30, 40


def square(left: int, top: int, side: int = 8) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + side, max(0, left) : left + side] = True
    return mask


def track(masks: list[np.ndarray | None], scores: list[float] | None = None, number: int = 1) -> MaskTrack:
    times = [index / 25 for index in range(len(masks))]
    scores = scores or [0.8] * len(masks)
    return MaskTrack.from_masks(f"t{number}", masks, times, scores, label=f"track-{number}", caption="a square")


def result(tracks: list[MaskTrack], frame_count: int) -> Result:
    return Result("clip.mp4", 25.0, WIDTH, HEIGHT, frame_count, "the square", "It is [SEG].", "tiny", tracks)


def test_codes_give_the_same_mask_area_and_box_back() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        height, width = random.integers(1, 12, 2)
        mask = random.random((height, width)) < random.choice([0.02, 0.3, 0.9, 1.0])
        code = rle.encode(mask)
        assert code["size"] == [height, width]
        assert isinstance(code["counts"], str)
        np.testing.assert_array_equal(rle.decode(code), mask)
        assert rle.area(code) == mask.sum()
        assert rle.checked(json.loads(json.dumps(code)), height, width) == code
        rows, columns = np.nonzero(mask)
        expected = (
            (columns.min(), rows.min(), columns.max() + 1 - columns.min(), rows.max() + 1 - rows.min())
            if mask.any()
            else None
        )
        assert rle.box(code) == expected


def test_overlap_and_union() -> None:
    a, b = square(0, 0), square(4, 0)
    assert rle.iou(rle.encode(a), rle.encode(b)) == pytest.approx(4 / 12)
    assert rle.iou(rle.encode(a), None) == 0.0
    assert rle.iou(None, rle.encode(np.zeros((HEIGHT, WIDTH), bool))) == 1.0
    np.testing.assert_array_equal(rle.decode(rle.union([rle.encode(a), rle.encode(b)])), a | b)
    with pytest.raises(InputError):
        rle.union([])
    with pytest.raises(InputError):
        rle.union([rle.encode(a), rle.encode(a[1:])])


GOOD = rle.encode(square(3, 3))


@pytest.mark.parametrize(
    "code",
    [
        None,
        "text",
        {},
        {"size": [HEIGHT, WIDTH]},
        {"size": [HEIGHT, WIDTH], "counts": [1, 2]},
        {"size": [WIDTH, HEIGHT], "counts": GOOD["counts"]},
        {"size": [HEIGHT, WIDTH], "counts": ""},
        {"size": [HEIGHT, WIDTH], "counts": GOOD["counts"][:-1]},
        {"size": [HEIGHT, WIDTH], "counts": GOOD["counts"] + "5"},
        {"size": [HEIGHT, WIDTH], "counts": "~~~~"},
        {"size": [HEIGHT, WIDTH], "counts": "\x00é"},
        {"size": [HEIGHT, WIDTH], "counts": "PPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPP"},
    ],
)
def test_codes_that_would_lead_pycocotools_astray_are_refused(code: Any) -> None:
    with pytest.raises(InputError):
        rle.checked(code, HEIGHT, WIDTH)


def test_a_track_tells_masks_boxes_and_where_the_object_is() -> None:
    found = track([square(0, 0), None, np.zeros((HEIGHT, WIDTH), bool), square(5, 6)], [0.9, 0.1, 0.2, 0.5])
    assert [frame.rle is None for frame in found.frames] == [False, True, True, False]
    assert found.present == [0, 3]
    assert found.box(3) == (5.0, 6.0, 8.0, 8.0)
    assert found.box(1) is None
    np.testing.assert_array_equal(found.mask(3), square(5, 6))
    assert found.mask(1).shape == (HEIGHT, WIDTH)
    assert not found.mask(1).any()
    assert found.score == pytest.approx(0.7)
    assert found.frames[3].time == pytest.approx(0.12)
    for index in (-1, 4):
        with pytest.raises(IndexError):
            found.mask(index)


def test_a_track_without_any_mask_asks_for_the_size() -> None:
    empty = track([None, None])
    assert empty.score == 0.0
    assert empty.mask(1, size=(3, 4)).shape == (3, 4)
    with pytest.raises(InputError, match="size"):
        empty.mask(1)


def test_masks_times_and_scores_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(InputError, match="2 masks, 3 times and 2 scores"):
        MaskTrack.from_masks("t", [None, None], [0, 1, 2], [1, 1])


def test_the_json_form_is_the_one_promised() -> None:
    data = result([track([square(1, 2), None])], 2).to_json()
    assert list(data) == [
        "version",
        "video",
        "fps",
        "width",
        "height",
        "frame_count",
        "instruction",
        "answer",
        "model_version",
        "tracks",
    ]
    assert data["version"] == 1
    assert list(data["tracks"][0]) == ["uid", "label", "caption", "score", "frames"]
    first, second = data["tracks"][0]["frames"]
    assert first == {"index": 0, "time": 0.0, "score": 0.8, "rle": rle.encode(square(1, 2))}
    assert second["rle"] is None
    assert result([], 2).to_json()["tracks"] == []


def test_a_saved_result_is_the_same_when_loaded(tmp_path: Path) -> None:
    before = result([track([square(1, 2), None]), track([square(9, 9), square(9, 9)], number=2)], 2)
    before.instruction = "le carré «rouge» 🟥"
    before.timings = {"language": 1.0}
    after = Result.load(before.save(tmp_path / "new" / "tracks.json"))
    assert after.to_json() == before.to_json()
    assert after.tracks[0].instruction == before.instruction
    assert after.timings == {}


def spoiled(change: str) -> dict[str, Any]:
    data = copy.deepcopy(result([track([square(1, 2), None]), track([None, None], number=2)], 2).to_json())
    exec(change, {"data": data, "first": data["tracks"][0]})
    return data


@pytest.mark.parametrize(
    "change",
    [
        "data['version'] = 2",
        "del data['version']",
        "del data['answer']",
        "data['width'] = 'wide'",
        "data['width'] = 7",
        "data['frame_count'] = 3",
        "data['tracks'] = None",
        "data['tracks'] = [1]",
        "first['uid'] = 't2'",
        "del first['frames']",
        "first['frames'].reverse()",
        "first['score'] = 1.5",
        "first['frames'][0]['score'] = float('nan')",
        "first['frames'][0]['rle']['counts'] += '1'",
        "del first['frames'][0]['time']",
    ],
)
def test_json_that_is_no_result_is_refused(change: str) -> None:
    with pytest.raises(InputError):
        Result.from_json(spoiled(change))


@pytest.mark.parametrize("content", [b"", b"[]", b"{not json", b"\xff\xfe"])
def test_files_that_hold_no_result_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tracks.json"
    path.write_bytes(content)
    with pytest.raises(InputError):
        Result.load(path)
    with pytest.raises(InputError):
        Result.load(tmp_path / "missing.json")


def test_a_clip_that_fits_is_shown_whole() -> None:
    assert key_frames([track([square(1, 1)] * 60)]) == list(range(60))
    assert key_frames(result([], 7)) == list(range(7))


def test_key_frames_gather_where_the_mask_changes() -> None:
    still, moving = [square(0, 0)] * 100, [square(min(2 * step, 30), 10) for step in range(16)]
    chosen = key_frames([track([*still, *moving, *[square(30, 10)] * 100])], limit=20)
    assert chosen == sorted(set(chosen))
    assert (chosen[0], chosen[-1]) == (0, 215)
    assert len(chosen) <= 20
    assert sum(99 <= index <= 116 for index in chosen) >= 0.4 * len(chosen)


def test_key_frames_gather_where_the_engine_is_in_doubt() -> None:
    scores = [0.98] * 200
    scores[120:140] = [0.1] * 20
    chosen = key_frames([track([square(5, 5)] * 200, scores)], limit=30)
    assert sum(120 <= index < 140 for index in chosen) >= len(chosen) / 2


def test_coming_and_going_are_key_frames_on_both_sides() -> None:
    masks: list[np.ndarray | None] = [square(5, 5)] * 300
    masks[77:91] = [None] * 14
    assert {0, 76, 77, 90, 91, 299} <= set(key_frames([track(masks)], limit=10))


def test_a_still_object_needs_fewer_frames_than_the_limit() -> None:
    chosen = key_frames([track([square(5, 5)] * 300, [1.0] * 300)])
    assert 10 <= len(chosen) <= 60
    assert max(np.diff(chosen)) <= 40


def test_key_frames_never_pass_the_limit() -> None:
    flicker: list[np.ndarray | None] = [square(index % 30, 3) if index % 2 else None for index in range(500)]
    for limit in (2, 3, 10, 60):
        chosen = key_frames(result([track(flicker)], 500), limit)
        assert len(chosen) <= limit
        assert {0, 499} <= set(chosen)
    assert len(key_frames(result([], 500))) == 60
    with pytest.raises(ValueError, match="limit"):
        key_frames([track(flicker)], 1)
    with pytest.raises(ValueError, match="Result"):
        key_frames([])


def test_labels_have_the_colours_of_tracks_which_come_round_again() -> None:
    labels = ElementTree.fromstring(label_config.fill("mask", ["car", "bus"])).iter("Label")
    assert [label.get("background") for label in labels][:2] == list(PALETTE[:2])
    assert palette(len(PALETTE) + 2)[-2:] == list(PALETTE[:2])
