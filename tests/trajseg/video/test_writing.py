"""Writing videos and frames: reading returns what was written, and no file is partial."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from trajseg.errors import InputError
from trajseg.files import whole_file
from trajseg.video import open_clip, playable_copy, save_frame, write_video

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (128, 128, 128), (255, 255, 255), (0, 0, 0)]


def plain(colour: tuple[int, int, int], width: int = 64, height: int = 48) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


@pytest.mark.parametrize("height", [48, 720])
def test_colours_come_back(tmp_path: Path, height: int) -> None:
    path = write_video(tmp_path / "c.mp4", (plain(c, 64, height) for c in COLOURS), 25)
    for index, rgb in open_clip(path).frames():
        np.testing.assert_allclose(rgb.reshape(-1, 3).mean(axis=0), COLOURS[index], atol=4)


@pytest.mark.parametrize("fps", [5.0, 24000 / 1001, 25.0, 30000 / 1001, 60.0, 2.268611681772291])
def test_written_videos_play_in_browsers_at_the_rate_requested(tmp_path: Path, fps: float) -> None:
    clip = open_clip(write_video(tmp_path / "new" / "v.mp4", [plain((9, 99, 199))] * 30, fps))
    assert (len(clip), clip.codec, clip.pixel_format) == (30, "h264", "yuv420p")
    assert clip.browser_playable
    assert clip.constant_rate
    assert clip.frame_map.times[0] == 0.0
    assert clip.fps == pytest.approx(fps, rel=1e-4)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc fills memory that is asked for")
@pytest.mark.parametrize("encoder", ["libx264", "libx265"])
def test_the_same_frames_give_the_same_file_whatever_lay_in_memory(tmp_path: Path, encoder: str) -> None:
    program = (
        "import sys; from trajseg.shapes.world.render import render; "
        "from trajseg.shapes.world.scenes import sample_scene;"
        "from trajseg.video import write_video;"
        # x265 writes beyond its memory if a picture has at most 64 rows.
        "write_video(sys.argv[1], render(sample_scene(7, 'val'), 128)[0], 10, encoder=sys.argv[2])"
    )
    written = []
    for fill in ("1", "85"):
        path = tmp_path / f"{fill}.mp4"
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_PERTURB_": fill}
        subprocess.run([sys.executable, "-c", program, path, encoder], env=environment, check=True)
        written.append(path.read_bytes())
    assert written[0] == written[1]


def test_the_index_stands_before_the_pictures(tmp_path: Path) -> None:
    data = write_video(tmp_path / "v.mp4", [plain((0, 0, 0))] * 3, 25).read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")


@pytest.mark.parametrize(("width", "height"), [(63, 48), (64, 47), (63, 47)])
def test_odd_sizes_gain_a_column_or_row_and_nothing_moves(tmp_path: Path, width: int, height: int) -> None:
    picture = plain((40, 40, 40), width, height)
    picture[10:20, 30:40] = 220
    clip = open_clip(write_video(tmp_path / "odd.mp4", [picture] * 3, 25, crf=5))
    assert (clip.width, clip.height) == (width + width % 2, height + height % 2)
    _, rgb = next(clip.frames())
    rows, columns = np.nonzero(rgb[..., 1] > 130)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (10, 20, 30, 40)


@pytest.mark.parametrize("name", ["variable_frame_rate.mp4", "broken_frame_count.avi"])
def test_a_playable_copy_has_the_same_frames_at_a_constant_rate(clips: Path, tmp_path: Path, name: str) -> None:
    clip = open_clip(clips / name)
    copy = open_clip(playable_copy(clip, tmp_path / "copy.mp4"))
    assert len(copy) == len(clip)
    assert copy.browser_playable
    assert copy.constant_rate
    assert copy.fps == pytest.approx(clip.fps, rel=1e-4)
    for (index, before), (other, after) in zip(clip.frames(), copy.frames(), strict=True):
        assert index == other
        assert np.abs(before.astype(int) - after).mean() < 6


def test_a_playable_copy_of_a_turned_clip_needs_no_rotation(tmp_path: Path) -> None:
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.set_display_rotation(90)
        for _ in range(4):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(plain((200, 30, 30), 64, 32), format="rgb24")))
        out.mux(stream.encode(None))
    clip = open_clip(path)
    assert not clip.browser_playable
    copy = open_clip(playable_copy(clip, tmp_path / "copy.mp4"))
    assert (copy.width, copy.height, len(copy)) == (32, 64, 4)
    with av.open(str(tmp_path / "copy.mp4")) as container:
        assert next(container.decode(video=0)).rotation == 0


def test_no_frames_or_frames_of_two_sizes_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no frames"):
        write_video(tmp_path / "none.mp4", [], 25)
    with pytest.raises(InputError, match="Frame 1 is 32x48"):
        write_video(tmp_path / "two.mp4", [plain((0, 0, 0)), plain((0, 0, 0), 32)], 25)
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_breaks_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", [plain((0, 0, 0))] * 3, 25)
    before = path.read_bytes()

    def breaks() -> Iterator[np.ndarray]:
        yield plain((1, 1, 1))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(path, breaks(), 25)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["v.mp4"]


def test_a_whole_file_appears_when_its_block_ends(tmp_path: Path) -> None:
    with whole_file(tmp_path / "deep" / "a.json") as unfinished:
        unfinished.write_text("{}")
        assert unfinished.suffix == ".json"
        assert not (tmp_path / "deep" / "a.json").exists()
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["a.json"]


def test_a_saved_frame_is_a_jpeg_of_its_size(tmp_path: Path) -> None:
    path = save_frame(tmp_path / "frame.jpg", plain((200, 30, 30), 65, 43))
    with Image.open(path) as image:
        assert (image.format, image.size) == ("JPEG", (65, 43))
        np.testing.assert_allclose(np.asarray(image).reshape(-1, 3).mean(axis=0), (200, 30, 30), atol=3)
