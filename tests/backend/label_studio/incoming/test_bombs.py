"""Decompression bombs in annotations and bodies are refused before they are decompressed."""

from __future__ import annotations

import base64
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flask import Flask
from label_studio_sdk.converter.brush import mask2rle

from backend.label_studio import png
from backend.label_studio.incoming import annotation as reader
from backend.label_studio.incoming.annotation import from_annotation
from label_config import fill, parse
from trajseg.errors import TaskError
from trajseg.video import FrameMap

MASK = parse(fill("mask"))
BOX = parse(fill("box"))
JSON = {"Content-Type": "application/json"}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int, colour: int = 6) -> str:
    """A PNG data URL of a few kilobytes whose picture is all zero."""
    row_bytes = 1 + width * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(row_bytes)) for _ in range(min(height, 200))) + packer.flush()
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))]
    parts += [chunk(b"PLTE", bytes(3))] if colour == 3 else []
    parts += [chunk(b"IDAT", packed), chunk(b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(parts)
    return "data:image/png;base64," + base64.b64encode(data).decode()


def item(url: str, position: int = 0) -> dict[str, Any]:
    value = {"imageDataURL": url, "bitmasklabels": ["track-1"]}
    return {"from_name": MASK.control, "type": "bitmasklabels", "item_index": position, "value": value}


def memory(call: Callable[[], Any]) -> float:
    """Peak memory of a refused call in megabytes."""
    tracemalloc.start()
    try:
        with pytest.raises(TaskError):
            call()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("colour", [0, 2, 3, 4, 6])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "size", [(13_300, 13_300), (100_000, 100_000), (2**31 - 1, 1), (1, 2**31 - 1), (40_000_000, 1)]
)
def test_a_picture_bomb_is_refused_by_its_header(size: tuple[int, int], colour: int) -> None:
    begun = time.thread_time()
    url = bomb(1, 1, colour)
    head = base64.b64decode(url.partition(",")[2])
    changed = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, colour, 0, 0, 0))
    url = url.partition(",")[0] + "," + base64.b64encode(head[:8] + changed + head[8 + len(changed) :]).decode()
    assert memory(lambda: from_annotation([item(url)], MASK, [0])) < 5
    assert time.thread_time() - begun < 1


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_bomb_of_28_kilobytes_is_refused_in_words() -> None:
    with pytest.raises(TaskError, match="13300 x 13300") as caught:
        from_annotation([item(bomb(13_300, 13_300))], MASK, [0])
    assert "TRAJSEG_MAX_FRAME_PIXELS" in caught.value.remedy


@pytest.mark.parametrize("cut", [9, 20, 40, 60])
def test_a_broken_picture_is_an_error_of_the_annotation(cut: int) -> None:
    data = base64.b64decode(png.to_url(np.eye(20, dtype=bool)).partition(",")[2])[:cut]
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    with pytest.raises(TaskError):
        from_annotation([item(url)], MASK, [0])


def test_many_masks_are_bounded_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MOST_MASKS", 3)
    monkeypatch.setenv("TRAJSEG_MAX_FRAME_PIXELS", "10000")
    url = png.to_url(np.ones((100, 100), bool))
    assert len(from_annotation([item(url, number) for number in range(3)], MASK, range(9)).masks) == 3
    with pytest.raises(TaskError, match="too many"):
        from_annotation([item(url, number) for number in range(4)], MASK, range(9))


def test_a_brush_code_that_claims_gigabytes_is_refused() -> None:
    code = mask2rle(np.ones((24, 32), np.uint8) * 255)
    right = {"from_name": "brush", "to_name": MASK.object_name, "type": "brushlabels", "original_width": 32, "original_height": 24}  # fmt: skip # noqa: E501
    read = from_annotation([{**right, "value": {"rle": code, "brushlabels": ["track-1"]}}], MASK, [0])
    assert read.masks["track-1", 0].all()
    lying = list((2**32 - 1).to_bytes(4, "big")) + code[4:]
    for changed in (
        {**right, "value": {"rle": lying, "brushlabels": ["track-1"]}},
        {**right, "original_width": 100_000, "original_height": 100_000, "value": {"rle": code, "brushlabels": ["a"]}},
        {**right, "original_width": -32, "original_height": -24, "value": {"rle": code, "brushlabels": ["a"]}},
        {**right, "value": {"rle": ["x"] * 9, "brushlabels": ["a"]}},
        {**right, "value": {"rle": code[:9], "brushlabels": ["a"]}},
    ):
        assert memory(lambda changed=changed: from_annotation([changed], MASK, [0])) < 5  # type: ignore[misc]


def boxes(*frames: object, **more: Any) -> list[dict[str, Any]]:
    keys = [{"frame": frame, "x": 1, "y": 1, "width": 5, "height": 5, "enabled": True, **more} for frame in frames]
    return [{"from_name": BOX.control, "value": {"sequence": keys, "labels": ["track-1"]}}]


@pytest.mark.parametrize(
    "frames", [(1, 10**15), (-(10**15), 3), (-(10**15), 10**15), (10**15,), (-(10**15),), (0, 0, 10**18)]
)
def test_boxes_on_frames_outside_the_clip_take_no_time(frames: tuple[int, ...]) -> None:
    frame_map = FrameMap((0.0, 0.1, 0.2, 0.3), 10.0)
    begun = time.thread_time()
    read = from_annotation(boxes(*frames), BOX, frame_map=frame_map)
    assert time.thread_time() - begun < 0.5
    assert {index for _, index in read.boxes} <= set(range(4))


@pytest.mark.parametrize("more", [{"x": float("nan")}, {"x": float("inf")}, {"x": "a"}, {"x": None}])
def test_boxes_that_are_no_numbers_are_an_error_of_the_annotation(more: dict[str, Any]) -> None:
    with pytest.raises(TaskError):
        from_annotation(boxes(1, 3, **more), BOX, frame_map=FrameMap((0.0, 0.1, 0.2, 0.3), 10.0))


@pytest.mark.parametrize(
    "body", [b"[" + b"[]," * 3_000_000 + b"1]", b"[" + b"{}," * 3_000_000 + b"1]", b"[" + b"," * 21_000_000 + b"]"]
)
def test_a_body_of_millions_of_values_is_refused_before_it_is_read(body: bytes, app: Flask) -> None:
    begun = time.thread_time()
    answer = app.test_client().post("/predict", data=body, headers=JSON)
    assert answer.status_code == 400
    assert "too many values" in answer.get_json()["error"]
    assert time.thread_time() - begun < 3


def test_a_packed_body_is_not_unpacked(app: Flask) -> None:
    body = zlib.compress(b'{"tasks": [], "project": "1", "x": "' + b"a" * 10_000_000 + b'"}')
    for encoding in ("gzip", "deflate", "br"):
        answer = app.test_client().post("/predict", data=body, headers={**JSON, "Content-Encoding": encoding})
        assert answer.status_code == 400
