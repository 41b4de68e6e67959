"""Files in unsupported formats: reported as such, instead of as damaged."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from trajseg.errors import VideoError
from trajseg.video import open_clip


def pictures(path: Path, codec: str, container: str, pixels: str, size: tuple[int, int] = (128, 96)) -> None:
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        rgb = np.full((size[1], size[0], 3), 90, np.uint8)
        for packet in [*stream.encode(av.VideoFrame.from_ndarray(rgb, "rgb24")), *stream.encode(None)]:
            file.mux(packet)


def sound(path: Path, codec: str, container: str) -> None:
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=44100)
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=44100)
        for resampled in resampler.resample(frame):
            for packet in stream.encode(resampled):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)


@pytest.mark.parametrize(
    ("name", "codec", "container", "pixels", "size"),
    [
        ("tape.dv", "dvvideo", "dv", "yuv420p", (720, 576)),
        ("camera.mjpeg", "mjpeg", "mjpeg", "yuvj420p", (128, 96)),
        ("old.rm", "rv10", "rm", "yuv420p", (128, 96)),
        ("recorded.wtv", "mpeg2video", "wtv", "yuv420p", (128, 96)),
        ("film.swf", "flv", "swf", "yuv420p", (128, 96)),
        ("photo.jpg", "mjpeg", "image2pipe", "yuvj420p", (128, 96)),
        ("picture.png", "png", "image2pipe", "rgb24", (128, 96)),
        ("picture.mp4", "png", "image2pipe", "rgb24", (128, 96)),
    ],
)
def test_pictures_in_a_format_that_is_not_read(
    tmp_path: Path, name: str, codec: str, container: str, pixels: str, size: tuple[int, int]
) -> None:
    pictures(tmp_path / name, codec, container, pixels, size)
    with pytest.raises(VideoError, match="trajseg does not read the format") as caught:
        open_clip(tmp_path / name)
    assert "damaged" not in str(caught.value)
    assert "H.264" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [
        ("a.aiff", "pcm_s16be", "aiff"),
        ("a.au", "pcm_s16be", "au"),
        ("a.caf", "pcm_s16be", "caf"),
        ("a.tta", "tta", "tta"),
    ],
)
def test_sound_in_a_format_that_is_not_read(tmp_path: Path, name: str, codec: str, container: str) -> None:
    sound(tmp_path / name, codec, container)
    with pytest.raises(VideoError, match=f"trajseg does not read the format {container}") as caught:
        open_clip(tmp_path / name)
    assert "damaged" not in str(caught.value)


def test_a_damaged_file_of_a_format_that_is_read_is_called_damaged(tmp_path: Path) -> None:
    pictures(tmp_path / "clip.mp4", "libx264", "mp4", "yuv420p")
    content = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "clip.mp4").write_bytes(content[:600])
    with pytest.raises(VideoError, match="damaged or cut off"):
        open_clip(tmp_path / "clip.mp4")
    assert av.logging.get_level() is None
