"""Files that browsers open but show wrongly: each needs a copy, and its frames and times are still right."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from trajseg.video import open_clip, playable_copy

SIZE = (64, 48)


def picture(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((size[1], size[0], 3), 20 + 5 * index, np.uint8)


def brightness(rgb: np.ndarray) -> int:
    """The index encoded in this picture."""
    return round((float(rgb.mean()) - 20) / 5)


def make(
    path: Path,
    count: int = 30,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    rate: int = 25,
    tick: Fraction = Fraction(1, 25),
    size: tuple[int, int] = SIZE,
    change: Callable[[int, Any], None] = lambda number, packet: None,
) -> Path:
    """A clip whose frame i is at tick i, while its header says `rate`; `change` can modify every packet."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=rate, options=options or {})
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        stream.codec_context.time_base = tick
        packets = []
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(index, size), format="rgb24")
            frame.pts, frame.time_base = index, tick
            packets += stream.encode(frame)
        for number, packet in enumerate([*packets, *stream.encode(None)]):
            change(number, packet)
            out.mux(packet)
    return path


def assert_copied(path: Path, word: str, count: int, tmp_path: Path) -> None:
    """Asserts that the file needs a copy for this reason, and that both have all frames in order."""
    clip = open_clip(path)
    assert word in clip.playback_problem
    assert not clip.browser_playable
    assert [brightness(rgb) for _, rgb in clip.frames()] == pytest.approx(list(range(count)), abs=1)
    copy = open_clip(playable_copy(clip, tmp_path / "copy.mp4"))
    assert (len(copy), copy.browser_playable, copy.width, copy.height) == (count, True, clip.width, clip.height)
    assert copy.fps == pytest.approx(clip.fps)


GROUPS = "keyint=10:bframes=3:b-adapt=0:scenecut=0"


def test_open_groups_of_pictures_need_a_copy(tmp_path: Path) -> None:
    """Chromium stops with an error at the first seek into one."""
    path = make(tmp_path / "a.mp4", options={"x264-params": f"open-gop=1:{GROUPS}"})
    assert_copied(path, "open groups of pictures", 30, tmp_path)


def test_closed_groups_of_pictures_need_none(tmp_path: Path) -> None:
    assert open_clip(make(tmp_path / "a.mp4", options={"x264-params": GROUPS})).browser_playable


@pytest.mark.parametrize("rate", [30, 60, 120, 600])
@pytest.mark.parametrize("name", ["a.webm", "a.mkv"])
def test_frames_that_last_beyond_the_next_need_a_copy(tmp_path: Path, name: str, rate: int) -> None:
    """The header says 25 frames a second, so each lasts 0.04 s: Chromium shows the previous frame."""
    path = make(tmp_path / name, codec="libvpx-vp9", tick=Fraction(1, rate), options={"lag-in-frames": "0"})
    clip = open_clip(path)
    assert "after the start of the next" in clip.playback_problem
    assert clip.fps == pytest.approx(rate, rel=0.03)


@pytest.mark.parametrize(("header", "rate"), [(25, 25), (25, 20), (30, 30), (60, 60)])
def test_frames_that_last_to_the_next_or_less_need_none(tmp_path: Path, header: int, rate: int) -> None:
    path = make(tmp_path / "a.webm", codec="libvpx-vp9", rate=header, tick=Fraction(1, rate))
    assert open_clip(path).browser_playable


@pytest.mark.parametrize("b_frames", ["0", "3"])
def test_a_rate_that_varies_needs_no_copy(tmp_path: Path, b_frames: str) -> None:
    """Durations in an MP4 are in decoding order: they are reordered with B-frames, and Chromium handles that."""

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=25, options={"bf": b_frames})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(30):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts, frame.time_base = 40 * index + 13 * (index // 3), Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    clip = open_clip(path)
    assert clip.browser_playable
    assert not clip.constant_rate


def test_a_picture_that_changes_its_size_needs_a_copy(tmp_path: Path) -> None:
    raw = b""
    for size in (SIZE, (128, 96), (64, 64)):
        raw += make(tmp_path / "a.h264", 5, size=size, options={"bf": "0"}).read_bytes()
    (tmp_path / "joined.h264").write_bytes(raw)
    with av.open(str(tmp_path / "joined.h264")) as joined, av.open(str(tmp_path / "b.mp4"), "w") as out:
        stream = out.add_stream_from_template(joined.streams.video[0])
        for number, packet in enumerate(packet for packet in joined.demux(video=0) if packet.size):
            packet.time_base, packet.stream = Fraction(1, 25), stream
            packet.pts, packet.dts, packet.duration = number, number, 1
            out.mux(packet)
    clip = open_clip(tmp_path / "b.mp4")
    assert "change the size" in clip.playback_problem
    assert {rgb.shape for _, rgb in clip.frames()} == {(48, 64, 3)}
    assert len(clip) == 15


def turned(path: Path, matrix: tuple[float, float, float, float]) -> Path:
    """The file with this display matrix: a, b, c, d as in x' = a x + c y, y' = b x + d y."""
    data = bytearray(make(path, 4).read_bytes())
    place = data.index(b"tkhd") + 44
    a, b, c, d = (round(value * 65536).to_bytes(4, "big", signed=True) for value in matrix)
    data[place : place + 36] = a + b + bytes(4) + c + d + bytes(12) + (1 << 30).to_bytes(4, "big")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("matrix", "shown", "playable"),
    [
        ((0, 1, -1, 0), (48, 64), True),
        ((0, -1, 1, 0), (48, 64), True),
        ((-1, 0, 0, -1), (64, 48), True),
        ((-1, 0, 0, 1), (64, 48), True),
        ((0, 1, 1, 0), (48, 64), True),
        ((0.87, 0.5, -0.5, 0.87), (64, 48), True),
        ((0, 2, -2, 0), (48, 64), False),
        ((-0.17, 0.98, -0.98, -0.17), (48, 64), False),
        ((-0.9, 0.1, -0.1, -0.9), (64, 48), False),
    ],
)
def test_only_exact_quarter_turns_are_left_to_browsers(
    tmp_path: Path, matrix: tuple[float, float, float, float], shown: tuple[int, int], playable: bool
) -> None:
    clip = open_clip(turned(tmp_path / "a.mp4", matrix))
    assert (clip.width, clip.height) == shown
    assert clip.browser_playable is playable


def with_cover(path: Path, cover: str, video: str, flag: bool = False) -> Path:
    """A still picture as the first track, a video as the second, which players do not enable automatically."""
    with av.open(str(path), "w") as out:
        first: Any = out.add_stream(cover, rate=25)
        first.width, first.height, first.pix_fmt = 96, 96, "rgb24" if cover == "png" else "yuvj420p"
        disposition = av.stream.Disposition
        first.disposition = disposition.attached_pic if flag else disposition.default
        second: Any = out.add_stream(video, rate=25)
        second.width, second.height, second.pix_fmt = 64, 48, "yuv420p"
        for stream, count in ((first, 1), (second, 10)):
            for index in range(count):
                frame = av.VideoFrame.from_ndarray(picture(index, (stream.width, stream.height)), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "cover"),
    [
        ("a.mp4", "mjpeg"),
        ("a.mov", "mjpeg"),
        ("a.mkv", "mjpeg"),
        ("a.avi", "mjpeg"),
        ("a.mp4", "png"),
        ("a.mov", "png"),
    ],
)
@pytest.mark.parametrize("video", ["libx264", "mpeg4"])
def test_a_cover_without_its_flag_is_no_video(tmp_path: Path, name: str, cover: str, video: str) -> None:
    clip = open_clip(with_cover(tmp_path / name, cover, video))
    assert (clip.width, clip.height, len(clip)) == (64, 48, 10)
    assert not clip.browser_playable


def test_a_track_that_is_off_beside_one_that_is_on_needs_a_copy(tmp_path: Path) -> None:
    """Chromium cannot play one track and does not show the other."""
    clip = open_clip(with_cover(tmp_path / "a.mp4", "mjpeg", "libx264"))
    assert "track is disabled" in clip.playback_problem
    flagged = open_clip(with_cover(tmp_path / "b.mp4", "mjpeg", "libx264", flag=True))
    assert (flagged.width, flagged.browser_playable) == (64, True)


def test_an_index_that_calls_every_frame_a_key_frame_needs_a_copy(tmp_path: Path) -> None:
    """Chromium seeks to frames that cannot be decoded on their own, and shows the next real key frame."""
    path = make(tmp_path / "a.mp4", options={"x264-params": GROUPS})
    path.write_bytes(path.read_bytes().replace(b"stss", b"free"))
    assert_copied(path, "wrongly marks as key frames", 30, tmp_path)


def later(seconds: float, frames: int = 1) -> Callable[[int, Any], None]:
    def change(number: int, packet: Any) -> None:
        if number < frames:
            packet.pts += round(seconds / packet.time_base)

    return change


@pytest.mark.parametrize("seconds", [0.1, 0.5, 30.0])
@pytest.mark.parametrize("name", ["a.webm", "a.mkv"])
def test_first_frames_with_a_late_time_change_no_other_frame(tmp_path: Path, name: str, seconds: float) -> None:
    codec, options = ("libvpx-vp9", {"lag-in-frames": "0"}) if name == "a.webm" else ("libx264", {"bf": "0"})
    clip = open_clip(make(tmp_path / name, codec=codec, options=options, change=later(seconds)))
    assert clip.frame_map.times == pytest.approx([index / 25 for index in range(30)], abs=0.001)
    assert not clip.browser_playable
    assert clip.fps == pytest.approx(25, rel=0.001)


@pytest.mark.parametrize("name", ["a.webm", "a.mkv"])
def test_a_clock_below_0_loses_no_frame(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    codec, options = ("libvpx-vp9", {"lag-in-frames": "0"}) if name == "a.webm" else ("libx264", {"bf": "0"})
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as out:
        stream: Any = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(30):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            for packet in stream.encode(frame):
                packet.pts, packet.dts = packet.pts - 5, packet.dts - 5
                out.mux(packet)
        for packet in stream.encode(None):
            packet.pts, packet.dts = packet.pts - 5, packet.dts - 5
            out.mux(packet)
    clip = open_clip(path)
    assert clip.frame_map.times == pytest.approx([index / 25 for index in range(30)], abs=0.001)
    assert clip.fps == pytest.approx(25)
    assert not clip.browser_playable
    assert all(after > before for before, after in pairwise(clip.frame_map.times))


def noisy(path: Path, count: int = 16) -> bytes:
    """A VP9 clip of noise: damage anywhere in it hits picture data."""
    chance = np.random.default_rng(0)
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libvpx-vp9", rate=25, options={"lag-in-frames": "0", "deadline": "realtime"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 96, 64, "yuv420p", 400_000
        for index in range(count):
            rgb = chance.integers(0, 255, (64, 96, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert open_clip(path).browser_playable
    return path.read_bytes()


@pytest.mark.parametrize("name", ["a.webm", "a.mkv", "a.mp4"])
def test_damage_in_vp9_needs_a_copy(tmp_path: Path, name: str) -> None:
    """FFmpeg's own decoder ignores most of it; Chromium stops there with an error."""
    data = noisy(tmp_path / name)
    for place, dirt in ((3, bytes(40)), (5, np.random.default_rng(0).bytes(40))):
        changed = bytearray(data)
        start = place * len(data) // 7
        changed[start : start + 40] = dirt
        (tmp_path / f"bad{name}").write_bytes(changed)
        clip = open_clip(tmp_path / f"bad{name}")
        assert "damage" in clip.playback_problem
        assert sum(1 for _ in clip.frames()) == len(clip)


@pytest.mark.parametrize("sound", [False, True])
def test_a_webm_that_is_shorter_than_it_says_needs_a_copy(tmp_path: Path, sound: bool) -> None:
    """The data between two groups of pictures is lost, so the rest of the file is not found."""
    with av.open(str(tmp_path / "a.webm"), "w") as out:
        if sound:
            track: Any = out.add_stream("libopus", rate=48000)
        stream: Any = out.add_stream("libvpx-vp9", rate=25, options={"lag-in-frames": "0", "g": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if sound:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 96 * 960), np.float32), format="fltp", layout="mono")
            silence.rate, silence.pts = 48000, 0
            out.mux(track.encode(silence))
        for index in range(40):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound:
            out.mux(track.encode(None))
    data = bytearray((tmp_path / "a.webm").read_bytes())
    assert open_clip(tmp_path / "a.webm").browser_playable
    half = len(data) // 2
    data[half : len(data) - 200] = bytes(len(data) - 200 - half)
    (tmp_path / "b.webm").write_bytes(data)
    clip = open_clip(tmp_path / "b.webm")
    assert 0 < len(clip) < 40
    assert not clip.browser_playable
