"""Pictures that are too large are refused before memory is allocated, whatever the file declares."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest
from PIL import Image

from trajseg.errors import VideoError
from trajseg.video import open_clip
from trajseg.video.damage import Damage
from trajseg.video.decoding import MAX_FRAME_PIXELS, decoded_frames, opened


def write(path: Path, width: int, height: int, frames: int = 2, form: str | None = None) -> Path:
    """A black H.264 video."""
    with av.open(str(path), "w", format=form) as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "ultrafast", "x264-params": "threads=1:bframes=0:rc-lookahead=0"}
        frame = av.VideoFrame(width, height, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        for number in range(frames):
            frame.pts, frame.time_base = number, Fraction(1, 10)
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path


def test_a_16k_video_is_refused_in_words_and_takes_little_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "wide.mp4", 15360, 8640, frames=1)
    assert MAX_FRAME_PIXELS < 15360 * 8640
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from trajseg.errors import VideoError\n"
        "from trajseg.video import open_clip\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    open_clip(Path(sys.argv[1]))\n"
        "except VideoError as error:\n"
        "    print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    told = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    message, megabytes = told.stdout.strip().splitlines()
    assert "15360 x 8640" in message
    assert "TRAJSEG_MAX_FRAME_PIXELS" in message
    # One decoded picture alone has 200 MB.
    assert int(megabytes) < 120


def test_the_limit_can_be_set_and_an_8k_video_is_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_FRAME_PIXELS > 7680 * 4320
    path = write(tmp_path / "a.mp4", 320, 240)
    assert len(open_clip(path)) == 2
    monkeypatch.setenv("TRAJSEG_MAX_FRAME_PIXELS", str(320 * 240 - 1))
    with pytest.raises(VideoError, match="320 x 240"):
        open_clip(path)


def test_a_stream_that_becomes_larger_than_it_said_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = write(tmp_path / "small.h264", 64, 64, form="h264").read_bytes()
    large = write(tmp_path / "large.h264", 640, 480, form="h264").read_bytes()
    (tmp_path / "both.h264").write_bytes(small + large)

    def sizes() -> set[int]:
        try:
            with opened(tmp_path / "both.h264", threads=False) as (container, stream):
                return {frame.width for frame in decoded_frames(container, stream, Damage())}
        except VideoError:
            # FFmpeg probes this far when it opens the file.
            return {0}

    assert sizes() == {64, 640}
    monkeypatch.setenv("TRAJSEG_MAX_FRAME_PIXELS", "10000")
    assert sizes() <= {0, 64}


def test_a_folder_of_large_pictures_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "0.png")
    assert len(open_clip(tmp_path)) == 1
    monkeypatch.setenv("TRAJSEG_MAX_FRAME_PIXELS", "1000")
    with pytest.raises(VideoError, match="64 x 48"):
        open_clip(tmp_path)
