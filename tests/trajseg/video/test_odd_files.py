"""Files with one anomaly each: pictures, times and frames are those that a browser shows, or a copy is needed."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from trajseg.pictures import overlay_video
from trajseg.video import open_clip, playable_copy, write_video


def picture(index: int, width: int, height: int) -> np.ndarray:
    """Grey, with a central white disc of a third of the stored height."""
    rows, columns = np.ogrid[:height, :width]
    disc = np.hypot(rows - height / 2, columns - width / 2) < height / 6
    return np.where(disc[..., None], 235, 60 + index).astype(np.uint8).repeat(3, axis=2)


def make(
    path: Path,
    tracks: tuple[tuple[int, int], ...] = ((64, 48),),
    aspect: Fraction | None = None,
    codecs: tuple[str, ...] = (),
    default: tuple[int, ...] = (0,),
    rotation: int = 0,
    options: dict[str, str] | None = None,
    count: int = 8,
) -> Path:
    with av.open(str(path), "w") as out:
        streams = []
        for number, (width, height) in enumerate(tracks):
            stream: Any = out.add_stream((codecs or ("libx264",) * 9)[number], rate=25, options=options or {})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            if aspect:
                stream.codec_context.sample_aspect_ratio = aspect
            if rotation:
                stream.set_display_rotation(rotation)
            stream.disposition = av.stream.Disposition(int(number in default))
            streams.append(stream)
        for index in range(count):
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(picture(index, stream.width, stream.height), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                out.mux(stream.encode(frame))
        for stream in streams:
            out.mux(stream.encode(None))
    return path


def disc(rgb: np.ndarray) -> tuple[int, int]:
    """Width and height of the white disc in pixels."""
    rows, columns = np.nonzero(rgb[..., 1] > 150)
    return int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1


@pytest.mark.parametrize(
    ("stored", "aspect", "rotation", "shown"),
    [
        ((64, 48), (2, 1), 0, (128, 48)),
        ((64, 48), (1, 2), 0, (64, 96)),
        ((352, 288), (16, 11), 0, (512, 288)),
        ((720, 480), (10, 11), 0, (720, 528)),
        ((704, 480), (40, 33), 0, (853, 480)),
        ((80, 48), (4, 3), 0, (107, 48)),
        ((70, 50), (5, 4), 0, (88, 50)),
        ((64, 50), (4, 5), 0, (64, 63)),
        ((64, 48), (2, 1), 90, (48, 128)),
        ((64, 48), (1, 2), 90, (96, 64)),
        ((64, 48), (2, 1), 180, (128, 48)),
    ],
)
def test_pixels_are_square_as_on_screen(
    tmp_path: Path, stored: tuple[int, int], aspect: tuple[int, int], rotation: int, shown: tuple[int, int]
) -> None:
    """The sizes are videoWidth and videoHeight in Chromium."""
    clip = open_clip(make(tmp_path / "a.mp4", (stored,), Fraction(*aspect), rotation=rotation))
    assert (clip.width, clip.height) == shown
    assert clip.browser_playable
    _, rgb = next(clip.frames())
    assert rgb.shape == (shown[1], shown[0], 3)
    across, down = disc(rgb)
    ratio = float(Fraction(*aspect)) if rotation != 90 else 1 / float(Fraction(*aspect))
    assert across / down == pytest.approx(ratio, rel=0.15)


def test_copies_and_overlays_show_square_pixels(cases: Path, tmp_path: Path) -> None:
    clip = open_clip(cases / "sar_2_1.mp4")
    assert (clip.width, clip.height, len(clip)) == (256, 128, 16)
    copy = open_clip(playable_copy(clip, tmp_path / "copy.mp4"))
    assert (copy.width, copy.height, len(copy)) == (256, 128, 16)
    with av.open(str(copy.path)) as container:
        assert container.streams.video[0].sample_aspect_ratio in (None, 1)
    overlay = open_clip(overlay_video(clip, [], tmp_path / "overlay.mp4"))
    # The picture is 640 by 320, below a bar of text.
    assert overlay.width == 640
    assert 320 < overlay.height < 480


@pytest.mark.parametrize(
    ("written", "shown", "playable"),
    [
        ((3, 1), (192, 48), True),
        ((1, 2), (64, 96), True),
        ((1, 1), (64, 48), True),
        ((0, 1), (64, 48), True),
        ((1, 0), (64, 48), True),
        ((0, 0), (64, 48), True),
        ((4_000_000_000, 2_000_000_000), (64, 48), True),
        ((1000, 1), (64, 48), False),
        ((1, 40000), (64, 48), False),
        (None, (64, 48), True),
    ],
)
def test_the_container_says_what_shape_pixels_have(
    tmp_path: Path, written: tuple[int, int] | None, shown: tuple[int, int], playable: bool
) -> None:
    """The stream says 2:1, the container something else, nothing, or an invalid value; sizes match Chromium's."""
    data = bytearray(make(tmp_path / "a.mp4", aspect=Fraction(2)).read_bytes())
    place = data.index(b"pasp")
    if written is None:
        data[place : place + 4] = b"free"
    else:
        data[place + 4 : place + 12] = b"".join(number.to_bytes(4, "big") for number in written)
    (tmp_path / "b.mp4").write_bytes(data)
    clip = open_clip(tmp_path / "b.mp4")
    assert (clip.width, clip.height) == shown
    assert clip.browser_playable is playable


@pytest.mark.parametrize("suffix", [".ts", ".avi"])
def test_where_no_browser_plays_the_file_the_stream_counts_too(tmp_path: Path, suffix: str) -> None:
    clip = open_clip(make(tmp_path / f"a{suffix}", aspect=Fraction(2)))
    assert (clip.width, clip.height) == (128, 48)


@pytest.mark.parametrize(
    ("name", "tracks", "default", "codecs", "shown"),
    [
        ("a.mp4", ((64, 48), (128, 96)), (1,), (), (128, 96)),
        ("a.mov", ((64, 48), (128, 96)), (1,), (), (128, 96)),
        ("a.mp4", ((64, 48), (128, 96)), (0,), (), (64, 48)),
        ("a.mp4", ((64, 48), (128, 96)), (0, 1), (), (64, 48)),
        ("a.mp4", ((64, 48), (128, 96)), (), (), (64, 48)),
        ("a.mp4", ((64, 48), (128, 96), (96, 64)), (2,), (), (96, 64)),
        ("a.mp4", ((64, 48), (128, 96)), (1,), ("libx264", "mpeg4"), (64, 48)),
        ("a.mp4", ((64, 48), (128, 96)), (0,), ("mpeg4", "libx264"), (128, 96)),
        ("a.webm", ((64, 48), (128, 96)), (1,), ("libvpx", "libvpx"), (64, 48)),
        ("a.mkv", ((64, 48), (128, 96)), (1,), (), (64, 48)),
    ],
)
def test_of_several_tracks_it_is_the_one_that_chromium_shows(
    tmp_path: Path,
    name: str,
    tracks: tuple[tuple[int, int], ...],
    default: tuple[int, ...],
    codecs: tuple[str, ...],
    shown: tuple[int, int],
) -> None:
    clip = open_clip(make(tmp_path / name, tracks, default=default, codecs=codecs))
    assert (clip.width, clip.height) == shown


def test_the_second_track_is_shown_where_it_is_the_default(cases: Path) -> None:
    clip = open_clip(cases / "two_def2.mp4")
    assert (clip.width, clip.height, len(clip)) == (128, 96, 10)
    assert {rgb.shape for _, rgb in clip.frames()} == {(96, 128, 3)}


@pytest.mark.parametrize(("name", "count"), [("long_ff_cut60.mp4", 50), ("long_ffb_cut60.mp4", 48)])
def test_a_cut_file_needs_a_copy_and_has_the_same_frames_on_every_machine(
    cases: Path, tmp_path: Path, name: str, count: int
) -> None:
    program = (
        "import os, sys; os.sched_setaffinity(0, set(list(os.sched_getaffinity(0))[: int(sys.argv[1])]));"
        "from trajseg.video import open_clip; clip = open_clip(sys.argv[2]);"
        "print(len(clip), sum(1 for _ in clip.frames()), clip.browser_playable)"
    )
    for cores in ("1", "99") if sys.platform == "linux" else ():
        command = [sys.executable, "-c", program, cores, str(cases / name)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        assert run.stdout.split() == [str(count), str(count), "False"]
    clip = open_clip(cases / name)
    assert "damage" in clip.playback_problem
    assert any("ends too early" in note for note in clip.notes)
    copy = open_clip(playable_copy(clip, tmp_path / "copy.mp4"))
    assert (len(copy), copy.browser_playable) == (count, True)


def noisy(path: Path) -> Path:
    chance = np.random.default_rng(0)
    return write_video(path, (chance.integers(0, 255, (120, 160, 3), dtype=np.uint8) for _ in range(40)), 25)


@pytest.mark.parametrize("how", ["cut", "zeros", "dirt"])
def test_damage_anywhere_needs_a_copy(tmp_path: Path, how: str) -> None:
    data = bytearray(noisy(tmp_path / "a.mp4").read_bytes())
    assert open_clip(tmp_path / "a.mp4").browser_playable
    third = len(data) // 3
    if how == "cut":
        del data[2 * third :]
    elif how == "zeros":
        data[third : third + 20000] = bytes(20000)
    else:
        # A few bytes inside a picture: the decoder conceals it, and a browser may stop.
        data[third : third + 40] = np.random.default_rng(1).integers(0, 255, 40, dtype=np.uint8).tobytes()
    (tmp_path / "b.mp4").write_bytes(data)
    clip = open_clip(tmp_path / "b.mp4")
    assert not clip.browser_playable
    assert sum(1 for _ in clip.frames()) == len(clip)


def test_a_cut_webm_needs_a_copy(tmp_path: Path) -> None:
    data = make(tmp_path / "a.webm", codecs=("libvpx-vp9",), count=60).read_bytes()
    assert open_clip(tmp_path / "a.webm").browser_playable
    (tmp_path / "b.webm").write_bytes(data[: len(data) * 3 // 4])
    clip = open_clip(tmp_path / "b.webm")
    assert 0 < len(clip) < 60
    assert not clip.browser_playable


def test_one_wrong_time_shifts_no_other_frame_and_needs_a_copy(cases: Path) -> None:
    clip = open_clip(cases / "jump_one.mp4")
    assert clip.frame_map.times == pytest.approx([index / 25 for index in range(40)])
    assert clip.fps == 25.0
    assert not clip.browser_playable


def test_a_clock_that_jumps_an_hour_makes_no_copy_of_an_hour(cases: Path, tmp_path: Path) -> None:
    clip = open_clip(cases / "cat_jump.ts")
    assert clip.frame_map.times == pytest.approx([index / 25 for index in range(30)])
    assert any("jumps ahead" in note for note in clip.notes)
    copy = open_clip(playable_copy(clip, tmp_path / "copy.mp4"))
    assert (len(copy), copy.fps) == (30, 25.0)
    assert copy.duration == pytest.approx(1.2)


@pytest.mark.parametrize("b_frames", ["0", "3"])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_times_in_avi_start_at_0(tmp_path: Path, codec: str, b_frames: str) -> None:
    options = {"bf": b_frames, **({"b-adapt": "0"} if codec == "libx264" else {})}
    clip = open_clip(make(tmp_path / "a.avi", codecs=(codec,), options=options, count=20))
    assert clip.frame_map.times == pytest.approx([index / 25 for index in range(20)])
    assert clip.notes == ()


def test_h264_in_avi_starts_at_0(cases: Path) -> None:
    clip = open_clip(cases / "h264.avi")
    assert clip.frame_map.times == pytest.approx([index / 25 for index in range(30)])


def test_at_1000_frames_a_second_numbers_show_their_frames(cases: Path) -> None:
    frame_map = open_clip(cases / "r1000.mp4").frame_map
    assert [frame_map.editor_frame(index) for index in range(20)] == [1, 1, *range(1, 19)]
    assert [frame_map.index_of_editor_frame(number) for number in range(1, 19)] == list(range(2, 20))
