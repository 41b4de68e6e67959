"""A decoder in its own process returns the same frames, and its hangs, crashes and memory use affect only itself."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trajseg.errors import CancelledError, VideoError
from trajseg.video import Clip, DecoderLimits, guarded_clip, open_clip, write_video
from trajseg.video.guarded_clip import Decoder

TESTS = Path(__file__).parents[2]
VIDEOS = [*sorted((TESTS / "clips").glob("*.*")), *sorted((TESTS / "data" / "cases").glob("*.*"))]
LIMITS = DecoderLimits()


@pytest.mark.parametrize("path", [path for path in VIDEOS if path.suffix], ids=lambda path: path.name)
def test_metadata_and_frames_are_the_same_byte_for_byte(path: Path) -> None:
    bare = open_clip(path)
    with guarded_clip(path, path.name, LIMITS) as clip:
        assert {field.name: getattr(clip, field.name) for field in fields(Clip)} == {
            field.name: getattr(bare, field.name) for field in fields(Clip)
        }
        count = min(len(bare), 60)
        for (index, picture), (wanted, expected) in zip(
            clip.frames(range(count)), bare.frames(range(count)), strict=True
        ):
            assert index == wanted
            assert picture.flags.writeable
            assert np.array_equal(picture, expected)
        some = sorted({0, len(bare) // 2, len(bare) - 1})
        assert [index for index, _ in clip.frames(some)] == some


def test_two_readers_at_a_time_do_not_disturb_each_other(tiny_clip: Any) -> None:
    expected = [picture for _, picture in open_clip(tiny_clip.path).frames()]
    with guarded_clip(tiny_clip.path, "tiny", LIMITS) as clip:
        first, second = clip.frames(), clip.frames(range(3, 12))
        for number in range(9):
            assert np.array_equal(next(first)[1], expected[number])
            assert np.array_equal(next(second)[1], expected[number + 3])


def test_a_decoder_is_used_again(tiny_clip: Any, decoders: list[Decoder]) -> None:
    with guarded_clip(tiny_clip.path, "tiny", LIMITS) as clip:
        for index in (3, 1, 7):
            assert next(clip.frames([index]))[0] == index
    assert len(decoders) == 1
    assert not decoders[0].alive


@pytest.fixture
def decoders(monkeypatch: pytest.MonkeyPatch) -> list[Decoder]:
    """The decoders started by the test."""
    started: list[Decoder] = []
    begin = Decoder.__init__

    def note(decoder: Decoder, *arguments: Any) -> None:
        begin(decoder, *arguments)
        started.append(decoder)

    monkeypatch.setattr(Decoder, "__init__", note)
    return started


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4,000 frames of 64 x 64 pixels: seconds to scan."""
    picture = np.full((64, 64, 3), 90, np.uint8)
    return write_video(tmp_path_factory.mktemp("long") / "long.mp4", (picture for _ in range(4000)), 25.0)


def test_too_many_frames_are_refused_while_the_video_is_scanned(long_video: Path) -> None:
    counted: list[int] = []
    with pytest.raises(VideoError, match="more than 50 frames"):
        open_clip(long_video, "long", 50, counted.append)
    assert counted == list(range(1, 51))
    with (
        pytest.raises(VideoError, match=r"long has more than 50 frames") as caught,
        guarded_clip(long_video, "long", DecoderLimits(frames=50)),
    ):
        pass
    assert "TRAJSEG_MAX_FRAMES" in caught.value.remedy


def when_started(decoders: list[Decoder], number: int) -> Callable[[], None]:
    """Sends a signal to the first decoder as soon as it exists."""

    def send() -> None:
        while not decoders:
            time.sleep(0.001)
        os.kill(decoders[0].pid, number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread.join


def test_a_decoder_that_never_returns_is_stopped(tiny_clip: Any, decoders: list[Decoder]) -> None:
    join = when_started(decoders, signal.SIGSTOP)
    with (
        pytest.raises(VideoError, match=r"tiny sent nothing for 1 s"),
        guarded_clip(tiny_clip.path, "tiny", DecoderLimits(silence_seconds=1.0)),
    ):
        pass
    join()
    assert not decoders[0].alive


@pytest.mark.parametrize("during", ["scan", "frames"])
def test_a_cancel_reaches_a_decoder_that_never_returns(tiny_clip: Any, decoders: list[Decoder], during: str) -> None:
    """The worker of a cancelled job used to hang for 244 s."""
    cancelled = threading.Event()

    def tick() -> None:
        if cancelled.is_set():
            raise CancelledError("cancelled")

    if during == "scan":
        when_started(decoders, signal.SIGSTOP)
        cancelled.set()

    def work() -> None:
        with guarded_clip(tiny_clip.path, "tiny", LIMITS, tick) as clip:
            frames = clip.frames()
            next(frames)
            os.kill(decoders[0].pid, signal.SIGSTOP)
            cancelled.set()
            list(frames)

    began = time.monotonic()
    with pytest.raises(CancelledError):
        work()
    assert time.monotonic() - began < 20
    assert not decoders[0].alive


def test_a_time_limit_reaches_a_decoder_that_never_returns(tiny_clip: Any, decoders: list[Decoder]) -> None:
    """A job's time limit is an alarm whose handler raises, like this one."""

    def ring(number: int, frame: object) -> None:
        raise TimeoutError("the job's time is over")

    join = when_started(decoders, signal.SIGSTOP)
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 2.0)
    try:
        with pytest.raises(TimeoutError), guarded_clip(tiny_clip.path, "tiny", LIMITS):
            pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    join()
    assert not decoders[0].alive


def test_a_decoder_that_crashes_costs_the_video_and_not_the_worker(tiny_clip: Any, decoders: list[Decoder]) -> None:
    join = when_started(decoders, signal.SIGSEGV)
    with pytest.raises(VideoError, match=r"crashed on tiny \(SIGSEGV\)"), guarded_clip(tiny_clip.path, "tiny", LIMITS):
        pass
    join()


def test_a_video_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    picture = np.zeros((2160, 3840, 3), np.uint8)
    path = write_video(tmp_path / "large.mp4", [picture] * 2, 12.0)
    with (
        pytest.raises(VideoError, match=r"large takes more than 50 MB") as caught,
        guarded_clip(path, "large", DecoderLimits(memory_bytes=50 * 2**20)) as clip,
    ):
        list(clip.frames())
    assert "TRAJSEG_DECODER_MEMORY_BYTES" in caught.value.remedy


def test_errors_are_those_of_open_clip(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video" * 100)
    with pytest.raises(VideoError) as bare:
        open_clip(broken, "the clip")
    with pytest.raises(VideoError) as guarded, guarded_clip(broken, "the clip", LIMITS):
        pass
    assert (guarded.value.message, guarded.value.remedy) == (bare.value.message, bare.value.remedy)
