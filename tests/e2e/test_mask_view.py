"""From an instruction about a video to editable masks on the right frames of the page, and back."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.label_studio.outgoing.views import from_annotation
from tests.e2e.editor import Editor, mask_of
from tests.e2e.prelabelled import Prelabelled, prelabelled
from tests.e2e.serving import MadeProject, Trajseg
from tests.e2e.studio import LabelStudio
from trajseg.tracks import rle

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
SHAPES, REAL = 0, 1
# Where the picture is drawn, and the box of the page that cuts off whatever is outside of it.
PICTURE_AND_FRAME = """() => {
    const stage = document.querySelector('.konvajs-content');
    const picture = [...document.querySelectorAll('img')].filter(e => e.getBoundingClientRect().width > 200)[0];
    return [picture, stage.parentElement.parentElement].map(e => e.getBoundingClientRect().toJSON()) }"""


@pytest.fixture(scope="module")
def asked(editor: Editor, mask_project: MadeProject) -> MadeProject:
    """The project after a person has selected all its tasks and chosen "Retrieve Predictions"."""
    editor.retrieve_predictions(mask_project.id)
    return mask_project


@pytest.fixture(scope="module")
def shapes(asked: MadeProject, studio: LabelStudio, trajseg: Trajseg) -> Prelabelled:
    return prelabelled(studio, trajseg, asked, SHAPES)


@pytest.fixture(scope="module")
def real(asked: MadeProject, studio: LabelStudio, trajseg: Trajseg) -> Prelabelled:
    return prelabelled(studio, trajseg, asked, REAL)


@pytest.fixture(scope="module")
def submitted(shapes: Prelabelled, asked: MadeProject, editor: Editor, studio: LabelStudio) -> dict[str, Any]:
    """The annotation in Label Studio after opening the page and pressing Submit."""
    editor.open_task(asked.id, shapes.id, regions=len(shapes.masks()))
    editor.submit()
    [annotation] = studio.annotations(shapes.id)
    return annotation


def test_asking_twice_gives_one_job_and_one_prediction(
    shapes: Prelabelled, asked: MadeProject, studio: LabelStudio, trajseg: Trajseg
) -> None:
    studio.retrieve_predictions(asked.id, asked.tasks)
    assert len(trajseg.jobs(shapes.id)) == 1
    assert len(studio.predictions(shapes.id)) == 1


def test_the_label_stream_shows_the_prediction(shapes: Prelabelled, asked: MadeProject, studio: LabelStudio) -> None:
    """It shows only predictions of the version that /setup currently returns."""
    backend = studio.call("GET", "/api/ml", params={"project": asked.id})[0]
    assert shapes.prediction["model_version"] == backend["model_version"] == shapes.result.model_version
    following = studio.call("GET", f"/api/projects/{asked.id}/next")
    assert following["predictions"]


def test_each_picture_is_the_frame_that_frame_index_names(
    shapes: Prelabelled, asked: MadeProject, studio: LabelStudio
) -> None:
    decoded = dict(asked.questions[SHAPES].clip.frames())
    assert len(shapes.task["data"]["frames"]) == len(shapes.frame_index)
    for url, index in zip(shapes.task["data"]["frames"], shapes.frame_index, strict=True):
        picture = np.asarray(Image.open(io.BytesIO(studio.fetch(url))).convert("RGB")).astype(int)
        away = {other: np.abs(picture - frame).mean() for other, frame in decoded.items()}
        assert min(away, key=lambda other: away[other]) == index
        corner, rest = np.abs(picture - decoded[index])[-16:, :40].mean(), np.abs(picture - decoded[index])[:-20].mean()
        assert corner > 5 * rest, "the frame's number stands in the corner"


def test_regions_in_the_page_are_on_the_right_frames_with_the_right_labels(
    shapes: Prelabelled, asked: MadeProject, editor: Editor
) -> None:
    editor.open_task(asked.id, shapes.id, regions=len(shapes.masks()))
    editor.screenshot("mask-opened")
    shown = {
        (label, shapes.frame_index[region["frame"]]): mask_of(region["png"])
        for region in editor.regions()
        for label in region["labels"]
    }
    expected = shapes.masks()
    assert shown.keys() == expected.keys()
    for place, mask in expected.items():
        assert np.array_equal(shown[place], mask), place


@pytest.mark.parametrize("width", [1280, 1440, 1920])
def test_the_whole_of_each_picture_is_seen_at_every_width_of_the_window(
    width: int, shapes: Prelabelled, asked: MadeProject, editor: Editor
) -> None:
    """Label Studio gives pictures 2 to n the width of the whole column and forgets the bar beside them."""
    editor.page.set_viewport_size({"width": width, "height": 1000})
    try:
        editor.open_task(asked.id, shapes.id, regions=len(shapes.masks()))
        for position in (0, 1, len(shapes.frame_index) - 1):
            editor.show_frame(position)
            picture, frame = editor.page.evaluate(PICTURE_AND_FRAME)
            assert picture["width"] > 300
            for side in ("left", "top", "right", "bottom"):
                inside = picture[side] - frame[side] if side in ("left", "top") else frame[side] - picture[side]
                assert inside > -1.5, (position, side, picture, frame)
        editor.screenshot(f"mask-width-{width}")
    finally:
        editor.page.set_viewport_size({"width": 1440, "height": 1000})


def test_masks_are_painted_on_the_screen_where_the_store_has_them(
    shapes: Prelabelled, asked: MadeProject, editor: Editor
) -> None:
    editor.open_task(asked.id, shapes.id, regions=len(shapes.masks()))
    count = len(shapes.frame_index)
    for position in sorted({0, count // 2, count - 1}):
        index = shapes.frame_index[position]
        editor.show_frame(position)
        expected = np.zeros((shapes.result.height, shapes.result.width), bool)
        for (_, at), mask in shapes.masks().items():
            expected |= mask & (at == index)
        painted = editor.painted(*expected.shape)
        editor.screenshot(f"mask-frame-{index:02d}")
        if expected.any():
            assert rle.iou(rle.encode(painted), rle.encode(expected)) > 0.98, index
        else:
            assert not painted.any(), index


def test_submitted_masks_come_back_pixel_exact(shapes: Prelabelled, submitted: dict[str, Any]) -> None:
    back = from_annotation(submitted, shapes.config, shapes.frame_index)
    expected = shapes.masks()
    assert back.masks.keys() == expected.keys()
    for place, mask in expected.items():
        assert np.array_equal(back.masks[place], mask), place
    assert back.edited == set()
    assert back.instruction == shapes.result.instruction
    assert submitted["parent_prediction"] == shapes.prediction["id"]


def test_painting_one_frame_changes_that_frame_alone(
    shapes: Prelabelled, submitted: dict[str, Any], asked: MadeProject, editor: Editor, studio: LabelStudio
) -> None:
    position = len(shapes.frame_index) // 2
    label, index = shapes.labels[0], shapes.frame_index[position]
    editor.open_task(asked.id, shapes.id, regions=len(shapes.masks()))
    editor.show_frame(position)
    editor.paint(label)
    editor.screenshot("mask-corrected")
    editor.update()
    [annotation] = studio.annotations(shapes.id)
    back = from_annotation(annotation, shapes.config, shapes.frame_index)
    assert back.edited == {(label, index)}
    before = shapes.masks()
    assert back.masks[label, index].sum() > before.get((label, index), np.zeros(1)).sum()
    for place, mask in before.items():
        if place != (label, index):
            assert np.array_equal(back.masks[place], mask), place


def test_a_real_clip_of_more_frames_than_pictures_shows_masks_on_those_that_were_chosen(
    real: Prelabelled, asked: MadeProject, editor: Editor
) -> None:
    editor.open_task(asked.id, real.id, regions=len(real.masks()))
    for position in (0, len(real.frame_index) // 2):
        editor.show_frame(position)
    editor.screenshot("mask-real-clip")
    assert len(real.frame_index) == 60 < real.result.frame_count
    assert {region["frame"] for region in editor.regions()} == {
        real.frame_index.index(index) for _, index in real.masks()
    }


def test_the_pages_requested_nothing_from_elsewhere(submitted: dict[str, Any], editor: Editor) -> None:
    assert editor.foreign == []
