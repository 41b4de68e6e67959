"""Overlay videos and contact sheets: every frame, masks in their colours, text in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trajseg.palette import palette, rgb
from trajseg.pictures import contact_sheet, overlay_video
from trajseg.pictures.drawing import Tags, fitted_font, font_for, paint_masks, shortened, wrapped
from trajseg.pictures.overlay import overlay_frames
from trajseg.tracks import MaskTrack
from trajseg.video import Clip, open_clip, write_video


@pytest.fixture(scope="module")
def clip(tiny_clip: Any) -> Clip:
    return open_clip(tiny_clip.path)


@pytest.fixture(scope="module")
def tracks(tiny_clip: Any, clip: Clip) -> list[MaskTrack]:
    return [
        MaskTrack.from_masks(
            f"t{number}",
            masks,
            clip.frame_map.times,
            [0.9] * 12,
            label=f"track-{number}",
            caption="a square that moves",
        )
        for number, masks in enumerate((tiny_clip.red, tiny_clip.blue), 1)
    ]


def test_an_overlay_plays_in_browsers_and_has_every_frame(clip: Clip, tracks: list[MaskTrack], tmp_path: Path) -> None:
    overlay = open_clip(overlay_video(clip, tracks, tmp_path / "o.mp4", "the squares"))
    assert len(overlay) == len(clip)
    assert overlay.fps == pytest.approx(clip.fps)
    assert overlay.browser_playable
    assert overlay.constant_rate
    assert overlay.width == 640
    assert overlay.height > 640 * 64 // 96


def test_an_overlay_of_a_varying_rate_keeps_one_frame_for_each(clips: Path, tmp_path: Path) -> None:
    clip = open_clip(clips / "variable_frame_rate.mp4")
    assert len(open_clip(overlay_video(clip, [], tmp_path / "o.mp4"))) == 82


def test_masks_are_filled_and_outlined_in_their_colour(tiny_clip: Any) -> None:
    grey = np.full((64, 96, 3), 128, np.uint8)
    mask = tiny_clip.red[3]
    for factor in (1, 4):
        painted = paint_masks(grey, [mask, None], palette(2), (96 * factor, 64 * factor), 2)
        colour = np.asarray(rgb(palette(1)[0]))
        inside = painted[16 * factor, 30 * factor].astype(int)
        assert np.abs(inside - colour).sum() < np.abs(128 - colour).sum()
        np.testing.assert_array_equal(painted[50 * factor, 80 * factor], (128, 128, 128))
        edge = painted[16 * factor, 20 * factor : 25 * factor].astype(int)
        assert np.abs(edge - colour).sum(axis=1).min() < 90


def test_a_mask_of_one_pixel_is_seen() -> None:
    mask = np.zeros((64, 96), bool)
    mask[30, 50] = True
    grey = np.full((64, 96, 3), 128, np.uint8)
    assert (paint_masks(grey, [mask], palette(1), (96, 64), 2) != 128).any()
    assert (paint_masks(grey, [mask], palette(1), (24, 16), 2) != 128).any()


def test_the_bar_changes_when_a_track_is_absent(clip: Clip, tracks: list[MaskTrack]) -> None:
    frames = list(overlay_frames(clip, tracks, "the squares", [7, 8]))
    picture_height = 640 * 64 // 96 // 2 * 2
    bars = [frame[: frame.shape[0] - picture_height] for frame in frames]
    row = bars[0].shape[0] - 30
    blue = np.asarray(rgb(palette(2)[1]))
    shown = [(np.abs(bar[row - 20 :].astype(int) - blue).sum(axis=2) < 12).sum() for bar in bars]
    assert shown[0] > 1.5 * shown[1] > 0


@pytest.mark.parametrize(("width", "height"), [(20, 300), (300, 20), (33, 47), (1920, 1080)])
def test_any_shape_of_clip_can_be_drawn(tmp_path: Path, width: int, height: int) -> None:
    picture = np.full((height, width, 3), 100, np.uint8)
    mask = np.zeros((height + height % 2, width + width % 2), bool)
    mask[height // 3 : height // 2, width // 3 : width // 2] = True
    clip = open_clip(write_video(tmp_path / "c.mp4", [picture] * 2, 25))
    tracks = [
        MaskTrack.from_masks(f"t{n}", [mask, None], clip.frame_map.times, [1, 1], label="t" * n, caption="word " * 40)
        for n in (1, 30)
    ]
    text = "a very long instruction, " * 40
    overlay = open_clip(overlay_video(clip, tracks, tmp_path / "o.mp4", text))
    assert overlay.width >= 420
    assert max(overlay.width, overlay.height) <= 1700
    with Image.open(contact_sheet(clip, tracks, tmp_path / "s.png", title=text)) as sheet:
        assert sheet.width >= 640


def test_a_sheet_has_as_many_frames_as_asked_or_there_are(clip: Clip, tracks: list[MaskTrack], tmp_path: Path) -> None:
    sizes = {}
    for count in (1, 6, 12, 99):
        path = contact_sheet(clip, tracks, tmp_path / f"{count}.png", count=count, title="the squares")
        with Image.open(path) as sheet:
            assert sheet.format == "PNG"
            sizes[count] = sheet.size
    assert sizes[6][0] == sizes[12][0] > sizes[1][0]
    assert sizes[6][1] < sizes[12][1] == sizes[99][1]


def test_a_sheet_without_tracks_says_so(clip: Clip, tmp_path: Path) -> None:
    with Image.open(contact_sheet(clip, [], tmp_path / "s.png", title="the yellow star")) as sheet:
        assert sheet.width > 640


def test_tags_keep_out_of_each_others_way_and_inside() -> None:
    image = Image.new("RGB", (320, 240))
    areas = [(100, 100, 160, 160), (104, 102, 158, 166), (110, 96, 170, 150), (300, 0, 320, 20)]
    colours = ["#ff0000", "#00ff00", "#0000ff", "#ffff00"]
    Tags(14).draw(image, [(f"track-{i}", colours[i], areas[i]) for i in range(4)])
    pixels = np.asarray(image)
    whole = Tags(14)
    alone = Image.new("RGB", (320, 240))
    whole.draw(alone, [("track-0", "#ff0000", areas[0])])
    single = (np.asarray(alone) == (255, 0, 0)).all(axis=2).sum()
    for colour in colours:
        assert (pixels == rgb(colour)).all(axis=2).sum() > 0.8 * single


def test_long_words_are_wrapped_and_cut() -> None:
    font = font_for(16)
    lines = wrapped("the one that will have to brake " * 10, font, 200, 3)
    assert len(lines) == 3
    assert all(font.getlength(line) <= 200 for line in lines)
    assert lines[-1].endswith("...")
    assert wrapped("short", font, 200, 3) == ["short"]
    assert wrapped("", font, 200, 3) == []
    assert font.getlength(shortened("x" * 5000, font, 100)) <= 100
    assert len(wrapped("y" * 500 + " z", font, 100, 3)) == 2


def test_letters_beyond_latin_are_given_another_font_where_there_is_one() -> None:
    assert fitted_font("the red car", 20) is font_for(20, True)
    assert fitted_font("красный", 20) is font_for(20, False)
