"""The frame map: frame numbers in Label Studio's editor."""

from __future__ import annotations

from pathlib import Path

import pytest

from trajseg.errors import VideoError
from trajseg.video import FrameMap, open_clip


def evenly(count: int, fps: float, rounding: float = 0.0) -> FrameMap:
    """Times of a constant rate, rounded to `rounding` seconds, as in a container with a coarse clock."""
    times = [index / fps for index in range(count)]
    if rounding:
        times = [round(time / rounding) * rounding for time in times]
    return FrameMap.from_times(tuple(times))


@pytest.mark.parametrize("fps", [10.0, 24.0, 25.0, 26.777, 30000 / 1001, 60.0, 120.0])
@pytest.mark.parametrize("rounding", [0.0, 0.001, 1 / 90000])
def test_at_a_constant_rate_frame_i_is_editor_frame_i_plus_1(fps: float, rounding: float) -> None:
    frame_map = evenly(500, fps, rounding)
    assert frame_map.constant_rate
    assert frame_map.fps == pytest.approx(fps, rel=1e-4)
    for index in range(500):
        assert frame_map.editor_frame(index) == index + 1
        assert frame_map.index_of_editor_frame(index + 1) == index


def test_rates_as_everybody_writes_them_come_out_exact() -> None:
    assert evenly(150, 25).fps == 25.0
    assert evenly(150, 30000 / 1001).fps == 30000 / 1001
    rounded = evenly(60, 30.0, rounding=0.001).times
    assert FrameMap.from_times(rounded, 30.0).fps == 30.0
    assert FrameMap.from_times(rounded, 24.0).fps == pytest.approx(30.0, abs=0.01)


@pytest.mark.parametrize("name", ["variable_frame_rate.mp4", "broken_frame_count.avi"])
def test_at_a_varying_rate_the_editor_number_shows_the_frame_or_the_nearest(clips: Path, name: str) -> None:
    frame_map = open_clip(clips / name).frame_map
    shown = [frame_map.index_of_editor_frame(frame_map.editor_frame(index)) for index in range(len(frame_map))]
    assert shown[0] == 0
    assert shown == sorted(shown)
    exact = sum(index == other for index, other in enumerate(shown))
    reachable = {frame_map.index_of_editor_frame(f) for f in range(1, 3 * len(frame_map))}
    assert exact == len(reachable)
    # A frame too short to be shown has the number whose time is nearest.
    for index, time in enumerate(frame_map.times):
        if shown[index] != index:
            assert abs((frame_map.editor_frame(index) - 1) / frame_map.fps - time) <= 0.5 / frame_map.fps + 1e-9


def test_the_rate_comes_from_the_times_and_not_from_the_header(clips: Path) -> None:
    clip = open_clip(clips / "variable_frame_rate.mp4")
    assert clip.fps == pytest.approx(81 / clip.frame_map.times[-1])


def test_index_at_gives_the_frame_on_show() -> None:
    frame_map = FrameMap((0.0, 0.1, 0.4), 5.0)
    assert [frame_map.index_at(time) for time in (-1.0, 0.0, 0.09, 0.1, 0.39, 0.4, 99.0)] == [
        0,
        0,
        0,
        1,
        1,
        2,
        2,
    ]


def test_frames_that_are_not_there_are_refused() -> None:
    frame_map = evenly(5, 25)
    for index in (-1, 5):
        with pytest.raises(IndexError):
            frame_map.editor_frame(index)
    with pytest.raises(IndexError):
        frame_map.index_of_editor_frame(0)
    assert frame_map.index_of_editor_frame(1000) == 4


@pytest.mark.parametrize(("times", "fps"), [((), 25.0), ((0.0, 0.0), 25.0), ((0.1, 0.0), 25.0), ((0.0,), 0.0)])
def test_maps_that_cannot_be_are_refused(times: tuple[float, ...], fps: float) -> None:
    with pytest.raises(VideoError):
        FrameMap(times, fps)


@pytest.mark.parametrize("fps", [400.0, 600.0, 1000.0])
def test_at_high_rates_a_number_is_the_one_whose_seek_time_shows_the_frame(fps: float) -> None:
    frame_map = evenly(60, fps)
    shown = [frame_map.index_of_editor_frame(frame_map.editor_frame(index)) for index in range(60)]
    # The editor adds 0.002 s: nothing shows the frames before it.
    first = frame_map.index_of_editor_frame(1)
    # At 1000 some seek times are a microsecond short, so the previous frame is shown; see below.
    assert all(abs(frame_shown - frame) <= (fps == 1000) for frame, frame_shown in enumerate(shown) if frame > first)
    assert shown[: first + 1] == [first] * (first + 1)


def test_what_a_seek_has_beyond_a_microsecond_is_cut_off_as_in_the_browser() -> None:
    """Measured in Chromium with a clip of 1000 frames a second: 18 / 1000 + 0.002 is 0.01999... there, too."""
    frame_map = evenly(60, 1000.0)
    shown = [frame_map.index_of_editor_frame(number) for number in range(1, 41)]
    assert [number for number in range(1, 41) if shown[number - 1] != number + 1] == [19, 20, 27, 28]


@pytest.mark.parametrize("fps", [12.0, 30.0, 60000 / 1001])
@pytest.mark.parametrize("rate", [12.0, 24.0, 25.0, 29.97, 60.0])
def test_an_editor_with_another_rate_is_followed(fps: float, rate: float) -> None:
    times = tuple(index / fps for index in range(90))
    frame_map = FrameMap(times, fps).at_rate(rate)
    assert frame_map.editor_frames == pytest.approx(90 / fps * rate, abs=0.51)
    for number in range(1, frame_map.editor_frames + 1):
        shown = min(int(((number - 1) / rate + 0.002) * fps), 89)
        assert frame_map.index_of_editor_frame(number) == shown
        assert frame_map.index_of_editor_frame(frame_map.editor_frame(shown)) == shown
    for index in range(90):
        assert (frame_map.editor_frame(index) - 1) / rate == pytest.approx(times[index], abs=1 / rate)
