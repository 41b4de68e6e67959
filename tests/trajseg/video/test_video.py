"""Opening and reading clips: decodable frames, their order and rotation, and memory use."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
import weakref
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.video.frame import PictureType

from trajseg.errors import VideoError
from trajseg.video import open_clip, write_video


def numbered(index: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A picture that encodes its number: eight bars, bright for set bits."""
    picture = np.full((height, width, 3), 30, np.uint8)
    for bit in range(8):
        if index >> bit & 1:
            picture[:, bit * width // 8 : (bit + 1) * width // 8] = 225
    return picture


def number_of(picture: np.ndarray) -> int:
    width = picture.shape[1]
    bars = [picture[:, (2 * bit + 1) * width // 16].mean() for bit in range(8)]
    return sum(1 << bit for bit, bar in enumerate(bars) if bar > 128)


def make(
    path: Path,
    pictures: Iterable[np.ndarray],
    *,
    codec: str = "libx264",
    fps: int = 25,
    pts: Callable[[int], int] = lambda index: index,
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    rotation: int = 0,
) -> Path:
    """A video file written without trajseg's own writer; `pts` in 1/fps seconds."""
    with av.open(str(path), "w") as out:
        stream: Any = None
        for index, rgb in enumerate(pictures):
            if stream is None:
                stream = out.add_stream(codec, rate=fps, options=options or {})
                stream.height, stream.width = rgb.shape[:2]
                stream.pix_fmt = pixel_format
                if rotation:
                    stream.set_display_rotation(rotation)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = pts(index), Fraction(1, fps)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def numbers(path: Path) -> list[int]:
    return [number_of(rgb) for _, rgb in open_clip(path).frames()]


@pytest.mark.parametrize(
    ("name", "count", "width", "height", "constant"),
    [
        ("yellow_box.mp4", 120, 480, 360, True),
        ("rabbit.mp4", 132, 640, 360, True),
        ("variable_frame_rate.mp4", 82, 320, 240, False),
        ("broken_frame_count.avi", 68, 320, 240, False),
    ],
)
def test_real_clips_have_the_frames_that_decode(
    clips: Path, name: str, count: int, width: int, height: int, constant: bool
) -> None:
    clip = open_clip(clips / name)
    assert (len(clip), clip.width, clip.height, clip.constant_rate) == (count, width, height, constant)
    indices, pictures = zip(*((index, rgb.shape) for index, rgb in clip.frames()), strict=True)
    assert list(indices) == list(range(count))
    assert set(pictures) == {(height, width, 3)}


def test_a_header_that_lies_about_the_count_is_noted(clips: Path) -> None:
    assert "the header claims 444 frames, 68 can be decoded" in open_clip(clips / "broken_frame_count.avi").notes


def test_frames_come_in_the_order_shown_with_b_frames(tmp_path: Path) -> None:
    options = {"bf": "4", "b-adapt": "0", "crf": "10"}
    path = make(tmp_path / "b.mp4", map(numbered, range(40)), options=options)
    with av.open(str(path)) as container:
        assert any(frame.pict_type == PictureType.B for frame in container.decode(video=0))
    assert numbers(path) == list(range(40))
    assert open_clip(path).frame_map.times[:3] == (0.0, 0.04, 0.08)


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".mkv"])
def test_a_video_that_starts_late_counts_from_zero(tmp_path: Path, suffix: str) -> None:
    path = make(tmp_path / f"late{suffix}", map(numbered, range(20)), pts=lambda index: 75 + index)
    clip = open_clip(path)
    assert clip.frame_map.times == pytest.approx([index / 25 for index in range(20)], abs=1e-3)
    assert clip.constant_rate
    assert numbers(path) == list(range(20))
    if suffix == ".mp4":
        assert not clip.browser_playable
        assert any("clock starts at 3.00 s" in note for note in clip.notes)


def test_pictures_that_come_after_the_sound_keep_their_distance(tmp_path: Path) -> None:
    path = tmp_path / "sound_first.mp4"
    with av.open(str(path), "w") as out:
        sound_stream: Any = out.add_stream("aac", rate=16000)
        stream: Any = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        sound.rate, sound.pts = 16000, 0
        packets = [*sound_stream.encode(sound), *sound_stream.encode(None)]
        for index in range(20):
            frame = av.VideoFrame.from_ndarray(numbered(index), format="rgb24")
            frame.pts, frame.time_base = index + 5, Fraction(1, 25)
            packets += stream.encode(frame)
        out.mux([*packets, *stream.encode(None)])
    clip = open_clip(path)
    assert clip.frame_map.times[:2] == pytest.approx((0.2, 0.24))
    assert clip.browser_playable
    assert [clip.frame_map.editor_frame(index) for index in (0, 1, 19)] == [6, 7, 25]
    assert any("0.200 s after the start" in note for note in clip.notes)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_metadata_is_applied_as_opencv_does(tmp_path: Path, rotation: int) -> None:
    picture = np.zeros((48, 80, 3), np.uint8)
    picture[:24, :40], picture[:24, 40:], picture[24:, :40] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    path = make(tmp_path / "turned.mp4", [picture] * 3, rotation=rotation)
    clip = open_clip(path)
    _, rgb = next(clip.frames())
    assert (clip.width, clip.height) == ((80, 48) if rotation == 180 else (48, 80))
    assert rgb.shape == (clip.height, clip.width, 3)
    capture = cv2.VideoCapture(str(path))
    _, reference = capture.read()
    capture.release()
    np.testing.assert_array_equal(rgb, reference[..., ::-1])


def test_only_the_frames_requested_are_given_sorted(tmp_path: Path) -> None:
    clip = open_clip(make(tmp_path / "n.mp4", map(numbered, range(30))))
    got = [(index, number_of(rgb)) for index, rgb in clip.frames([17, 3, 3, 29])]
    assert got == [(3, 3), (17, 17), (29, 29)]
    assert list(clip.frames([])) == []
    with pytest.raises(IndexError):
        clip.frames([30])
    with pytest.raises(IndexError):
        clip.frames([-1, 2])


@pytest.mark.parametrize(
    ("file", "codec", "pixel_format", "playable"),
    [
        ("h264.mp4", "libx264", "yuv420p", True),
        ("vp9.webm", "libvpx-vp9", "yuv420p", True),
        ("mp4v.mp4", "mpeg4", "yuv420p", False),
        ("hevc.mp4", "libx265", "yuv420p", False),
        ("h264.mkv", "libx264", "yuv420p", False),
        ("chroma444.mp4", "libx264", "yuv444p", False),
        ("mjpeg.avi", "mjpeg", "yuvj420p", False),
    ],
)
def test_what_browsers_play_depends_on_codec_format_and_container(
    tmp_path: Path, file: str, codec: str, pixel_format: str, playable: bool
) -> None:
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    pictures = map(numbered, range(5))
    path = make(tmp_path / file, pictures, codec=codec, pixel_format=pixel_format, options=options)
    clip = open_clip(path)
    assert len(clip) == 5
    assert clip.browser_playable is playable


def test_a_clip_of_one_frame_is_a_clip(tmp_path: Path) -> None:
    clip = open_clip(make(tmp_path / "one.mp4", [numbered(5)]))
    assert (len(clip), clip.frame_map.times, clip.fps) == (1, (0.0,), 25.0)
    assert clip.duration == pytest.approx(0.04)


def test_a_name_with_a_colon_is_a_file(tmp_path: Path) -> None:
    assert len(open_clip(make(tmp_path / "http:a b.mp4", [numbered(1)]))) == 1


def audio_only(path: Path) -> None:
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        sound.rate, sound.pts = 16000, 0
        out.mux([*stream.encode(sound), *stream.encode(None)])


def without_moov(path: Path) -> None:
    whole = make(path.with_name("whole.mp4"), map(numbered, range(20))).read_bytes()
    path.write_bytes(whole[: whole.find(b"moov") - 4])


def without_pictures(path: Path) -> None:
    """A faststart file truncated right after its index: it declares frames but has none."""
    whole = write_video(path.with_name("whole.mp4"), map(numbered, range(20)), 25).read_bytes()
    path.write_bytes(whole[: whole.find(b"mdat") + 8])


def playlist(path: Path) -> None:
    target = make(path.with_name("target.mp4"), map(numbered, range(3)))
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n")


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("missing.mp4", lambda path: None, "There is no file"),
        ("folder.mp4", Path.mkdir, "has no frames"),
        ("empty.mp4", Path.touch, "is empty"),
        ("text.mp4", lambda path: path.write_text("hello " * 1000), "cannot be read as a video"),
        ("text.txt", lambda path: path.write_text("hello " * 1000), "cannot be read as a video"),
        ("list.m3u8", playlist, "cannot be read as a video"),
        ("list.mp4", playlist, "cannot be read as a video"),
        ("sound.m4a", audio_only, "has no pictures"),
        ("no_index.mp4", without_moov, "cannot be read as a video"),
        ("no_frames.mp4", without_pictures, "No frame of"),
    ],
)
def test_what_is_no_video_is_refused_with_its_name(
    tmp_path: Path, name: str, spoil: Callable[[Path], object], words: str
) -> None:
    path = tmp_path / name
    spoil(path)
    with pytest.raises(VideoError, match=words) as caught:
        open_clip(path)
    assert name in caught.value.message
    assert caught.value.remedy


def test_a_cut_off_file_gives_what_is_left_and_says_so(clips: Path, tmp_path: Path) -> None:
    whole = (clips / "rabbit.mp4").read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 2])
    clip = open_clip(cut)
    assert 0 < len(clip) < 132
    assert f"the header claims 132 frames, {len(clip)} can be decoded" in clip.notes
    assert sum(1 for _ in clip.frames()) == len(clip)


def test_damage_in_the_middle_is_passed_over_the_same_way_each_time(clips: Path, tmp_path: Path) -> None:
    data = bytearray((clips / "rabbit.mp4").read_bytes())
    data[150_000:170_000] = bytes(20_000)
    path = tmp_path / "hole.mp4"
    path.write_bytes(data)
    clip = open_clip(path)
    assert 100 < len(clip) < 132
    assert any("cannot be decoded" in note for note in clip.notes)
    assert sum(1 for _ in clip.frames()) == len(clip)


def test_joined_recordings_of_two_sizes_are_one_clip_in_the_first_size(tmp_path: Path) -> None:
    parts = [make(tmp_path / "a.ts", map(numbered, range(5)))]
    parts.append(make(tmp_path / "b.ts", (numbered(index, 96, 80) for index in range(5, 10))))
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    clip = open_clip(path)
    assert numbers(path) == list(range(10))
    assert {rgb.shape for _, rgb in clip.frames()} == {(48, 64, 3)}
    assert any("clock restarts" in note for note in clip.notes)
    assert any("picture size changes" in note for note in clip.notes)


def test_a_file_that_changed_since_it_was_opened_is_an_error(tmp_path: Path) -> None:
    clip = open_clip(make(tmp_path / "a.mp4", map(numbered, range(20))))
    make(tmp_path / "a.mp4", map(numbered, range(5)))
    with pytest.raises(VideoError, match="has fewer now"):
        list(clip.frames())


def test_a_long_clip_is_streamed(tmp_path: Path) -> None:
    size, count = (320, 240), 300
    alive: list[weakref.ref[np.ndarray]] = []

    def watched(frames: Iterator[tuple[int, np.ndarray]]) -> Iterator[np.ndarray]:
        for _, rgb in frames:
            alive.append(weakref.ref(rgb))
            yield rgb
            assert sum(ref() is not None for ref in alive) <= 3

    write_video(tmp_path / "long.mp4", (numbered(i % 256, *size) for i in range(count)), 25)
    tracemalloc.start()
    clip = open_clip(tmp_path / "long.mp4")
    write_video(tmp_path / "copy.mp4", watched(clip.frames()), 25)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(alive) == len(clip) == count
    assert peak < 12 * size[0] * size[1] * 3


@pytest.mark.parametrize(
    "module", ["trajseg.video", "trajseg.tracks", "trajseg.engines.base", "backend", "label_config"]
)
def test_light_modules_load_neither_torch_nor_transformers(module: str) -> None:
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
