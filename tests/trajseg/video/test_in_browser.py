"""At the editor's seek times, Chromium shows the frame predicted by the frame map."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from threading import Thread
from typing import Any

import av
import numpy as np
import pytest
from flask import Flask, Response, send_from_directory
from werkzeug.serving import make_server

from trajseg.video import open_clip, playable_copy, write_video

pytestmark = pytest.mark.e2e

CHROMIUM = Path(os.environ.get("TRAJSEG_CHROMIUM", "/usr/bin/chromium"))
FRAMES = 30

SHOWN = """async ([address, times]) => {
  const video = document.createElement("video"), canvas = document.createElement("canvas");
  video.muted = true;
  video.src = address;
  await new Promise((done, failed) => {
    video.onloadeddata = done;
    video.onerror = () => failed(video.error.message);
  });
  canvas.width = video.videoWidth; canvas.height = video.videoHeight;
  const pen = canvas.getContext("2d", {willReadFrequently: true}), numbers = [];
  for (const time of times) {
    const sought = new Promise(done => { video.onseeked = done; });
    // Not called where the picture stays the same.
    const painted = new Promise(done => {
      video.requestVideoFrameCallback(done);
      setTimeout(done, 1000);
    });
    video.currentTime = time;
    await sought;
    await painted;
    pen.drawImage(video, 0, 0);
    let number = 0;
    for (let bit = 0; bit < 8; bit++)
      if (pen.getImageData((2 * bit + 1) * canvas.width / 16, 20, 1, 1).data[0] > 128) number += 1 << bit;
    numbers.push(number);
  }
  return numbers;
}"""


def numbered(index: int) -> np.ndarray:
    """A picture that encodes its number: eight bars, bright for set bits."""
    bits = np.array([index >> bit & 1 for bit in range(8)], np.uint8)
    return np.broadcast_to((30 + 195 * bits.repeat(8))[None, :, None], (48, 64, 3)).copy()


def make(path: Path, time: Callable[[int], int], codec: str = "libx264", sound: bool = False) -> None:
    """A numbered video; `time` gives each frame's time in 1/100 s; sound starts at 0."""
    with av.open(str(path), "w") as out:
        sound_stream: Any = out.add_stream("aac", rate=16000) if sound else None
        stream: Any = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        packets = []
        if sound:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
            silence.rate, silence.pts = 16000, 0
            packets += [*sound_stream.encode(silence), *sound_stream.encode(None)]
        for index in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(numbered(index), format="rgb24")
            frame.pts, frame.time_base = time(index), Fraction(1, 100)
            packets += stream.encode(frame)
        out.mux([*packets, *stream.encode(None)])


def write_ours(path: Path) -> None:
    write_video(path, map(numbered, range(FRAMES)), 30000 / 1001)


def write_copy(path: Path) -> None:
    make(path.with_suffix(".avi"), lambda index: 4 * index, codec="mpeg4")
    playable_copy(open_clip(path.with_suffix(".avi")), path)


FILES: dict[str, Callable[[Path], None]] = {
    "constant.mp4": lambda path: make(path, lambda index: 4 * index),
    "varying.mp4": lambda path: make(path, lambda index: 4 * index + 3 * (index // 3)),
    "sound_first.mp4": lambda path: make(path, lambda index: 4 * index + 10, sound=True),
    "vp9.webm": lambda path: make(path, lambda index: 4 * index, codec="libvpx-vp9"),
    "ours.mp4": write_ours,
    "copy.mp4": write_copy,
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A page of a headless Chromium, and the folder that its server serves."""
    playwright_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}")
    folder = tmp_path_factory.mktemp("served")
    app = Flask(__name__)

    @app.get("/<name>")
    def serve(name: str) -> Response:
        return Response("<!doctype html>") if name == "page" else send_from_directory(folder, name, conditional=True)

    server = make_server("127.0.0.1", 0, app, threaded=True)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        opened = browser.new_page()
        opened.goto(f"http://127.0.0.1:{server.server_port}/page")
        yield opened, folder
        browser.close()
    server.shutdown()


@pytest.mark.parametrize("name", FILES)
def test_the_browser_shows_the_frame_that_the_map_says(page: Any, name: str) -> None:
    opened, folder = page
    FILES[name](folder / name)
    clip = open_clip(folder / name)
    assert clip.browser_playable
    frame_map = clip.frame_map
    numbers = [frame_map.editor_frame(index) for index in range(FRAMES)]
    times = [(number - 1) / frame_map.fps + 0.002 for number in numbers]
    expected = [frame_map.index_of_editor_frame(number) for number in numbers]
    assert opened.evaluate(SHOWN, [f"/{name}", times]) == expected
    if clip.constant_rate:
        assert expected == list(range(FRAMES))


def fast_webm(path: Path) -> None:
    """60 frames a second; the header says 25, so each has a declared duration of 0.04 s."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libvpx-vp9", rate=25, options={"lag-in-frames": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 60)
        for index in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(numbered(index), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 60)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def grouped(path: Path, kind: str) -> None:
    groups = f"{kind}keyint=10:bframes=3:b-adapt=0:scenecut=0"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=25, options={"x264-params": groups})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(FRAMES):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(index), format="rgb24")))
        out.mux(stream.encode(None))


def all_keys(path: Path) -> None:
    grouped(path, "")
    path.write_bytes(path.read_bytes().replace(b"stss", b"free"))


FAULTY: dict[str, Callable[[Path], None]] = {
    "fast.webm": fast_webm,
    "all_keys.mp4": all_keys,
    "open_groups.mp4": lambda path: grouped(path, "open-gop=1:"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_what_the_browser_shows_wrongly_gets_a_copy_that_it_shows_rightly(page: Any, name: str) -> None:
    opened, folder = page
    FAULTY[name](folder / name)
    clip = open_clip(folder / name)
    assert not clip.browser_playable
    times = [(clip.frame_map.editor_frame(index) - 1) / clip.fps + 0.002 for index in range(FRAMES)]
    # A missing answer is a failure, too: after an error no seek completes.
    original = opened.evaluate(f"arguments => Promise.race([({SHOWN})(arguments), {TOO_LATE}])", [f"/{name}", times])
    assert original != list(range(FRAMES))
    copy = open_clip(playable_copy(clip, folder / f"{name}.mp4"))
    times = [(copy.frame_map.editor_frame(index) - 1) / copy.fps + 0.002 for index in range(FRAMES)]
    assert opened.evaluate(SHOWN, [f"/{name}.mp4", times]) == list(range(FRAMES))


TOO_LATE = "new Promise(done => setTimeout(done, 20000, null))"

SIZE = """async address => {
  const video = document.createElement("video");
  video.src = address;
  return await new Promise(done => {
    video.onloadeddata = () => done([video.videoWidth, video.videoHeight]);
    video.onerror = () => done(null);
  });
}"""


def shaped(path: Path, aspect: Fraction, size: tuple[int, int] = (64, 48), rotation: int = 0) -> None:
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=25)
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        for index in range(4):
            picture = np.full((size[1], size[0], 3), 40 * index, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))


def without_container_shape(path: Path) -> None:
    shaped(path, Fraction(2))
    path.write_bytes(path.read_bytes().replace(b"pasp", b"free"))


SHAPES: dict[str, Callable[[Path], None]] = {
    "wide.mp4": lambda path: shaped(path, Fraction(2)),
    "tall.mp4": lambda path: shaped(path, Fraction(1, 2)),
    "third.mp4": lambda path: shaped(path, Fraction(4, 3), (80, 48)),
    "half.mp4": lambda path: shaped(path, Fraction(5, 4), (70, 50)),
    "half_tall.mp4": lambda path: shaped(path, Fraction(4, 5), (64, 50)),
    "turned.mp4": lambda path: shaped(path, Fraction(4, 3), rotation=90),
    "stream_only.mp4": without_container_shape,
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_size_is_the_one_that_the_browser_shows(page: Any, name: str) -> None:
    opened, folder = page
    SHAPES[name](folder / name)
    clip = open_clip(folder / name)
    assert opened.evaluate(SIZE, f"/{name}") == [clip.width, clip.height]


@pytest.mark.parametrize("name", ["sar_2_1.mp4", "two_def2.mp4", "red30.mp4"])
def test_odd_files_have_the_size_that_the_browser_shows(page: Any, cases: Path, name: str) -> None:
    opened, folder = page
    (folder / name).write_bytes((cases / name).read_bytes())
    clip = open_clip(cases / name)
    assert clip.browser_playable
    assert opened.evaluate(SIZE, f"/{name}") == [clip.width, clip.height]
