"""Tracks as boxes on the video: on the right frames of the page, and unchanged after Submit."""

from __future__ import annotations

import numpy as np
import pytest

from backend.label_studio.boxes import TOLERANCE
from backend.label_studio.outgoing.views import from_annotation
from tests.e2e.editor import Editor
from tests.e2e.prelabelled import Prelabelled, prelabelled
from tests.e2e.serving import MadeProject, Trajseg
from tests.e2e.studio import LabelStudio
from trajseg.video import FrameMap

Boxes = dict[tuple[str, int], tuple[float, float, float, float]]
"""Boxes by label and frame."""

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
SHAPES, VARYING = 0, 1


@pytest.fixture(scope="module")
def asked(studio: LabelStudio, box_project: MadeProject) -> MadeProject:
    """The project after the Data Manager's action for all its tasks."""
    studio.retrieve_predictions(box_project.id, box_project.tasks)
    return box_project


@pytest.fixture(scope="module")
def shapes(asked: MadeProject, studio: LabelStudio, trajseg: Trajseg) -> Prelabelled:
    return prelabelled(studio, trajseg, asked, SHAPES)


@pytest.fixture(scope="module")
def frame_map(asked: MadeProject) -> FrameMap:
    return asked.questions[SHAPES].clip.frame_map


def assert_same_boxes(drawn: Boxes, expected: Boxes) -> None:
    """Boxes on the same (label, frame) pairs, within the tolerance for removed key frames."""
    assert drawn.keys() == expected.keys()
    for place, box in expected.items():
        assert np.abs(np.subtract(drawn[place], box)).max() <= TOLERANCE + 0.01, place


def test_boxes_in_the_page_follow_the_masks_of_the_store(
    shapes: Prelabelled, asked: MadeProject, editor: Editor, frame_map: FrameMap
) -> None:
    editor.open_task(asked.id, shapes.id, regions=len(shapes.result.tracks))
    drawn = {}
    for index in range(len(frame_map)):
        for label, box in editor.boxes_at(frame_map.editor_frame(index)).items():
            drawn[label, index] = box
    assert shapes.boxes()
    assert_same_boxes(drawn, shapes.boxes())


def test_the_video_plays_in_the_page_and_shows_the_box_on_its_frame(
    shapes: Prelabelled, asked: MadeProject, editor: Editor, frame_map: FrameMap
) -> None:
    editor.open_task(asked.id, shapes.id, regions=len(shapes.result.tracks))
    index = len(frame_map) // 2
    editor.show_video_frame(frame_map.editor_frame(index))
    editor.screenshot("box-opened")
    times = frame_map.times
    shown = frame_map.index_at(editor.video_time())
    assert shown == index, (editor.video_time(), times[index])


def test_submitted_boxes_come_back_as_they_were(
    shapes: Prelabelled, asked: MadeProject, editor: Editor, studio: LabelStudio, frame_map: FrameMap
) -> None:
    editor.open_task(asked.id, shapes.id, regions=len(shapes.result.tracks))
    editor.submit()
    [annotation] = studio.annotations(shapes.id)
    back = from_annotation(annotation, shapes.config, frame_map=frame_map)
    assert_same_boxes(back.boxes, shapes.boxes())
    assert back.instruction == shapes.result.instruction


def test_frame_numbers_meet_the_right_frames_of_a_clip_whose_rate_varies(
    asked: MadeProject, editor: Editor, studio: LabelStudio, trajseg: Trajseg
) -> None:
    varying = prelabelled(studio, trajseg, asked, VARYING)
    frame_map = asked.questions[VARYING].clip.frame_map
    assert not frame_map.constant_rate
    assert varying.result.frame_count == len(frame_map)
    assert varying.task["data"]["fps"] == pytest.approx(frame_map.fps, abs=1e-5)
    editor.open_task(asked.id, varying.id)
    last = len(frame_map) - 1
    for index in (0, last // 4, last // 2, 3 * last // 4, last):
        frame = frame_map.editor_frame(index)
        editor.show_video_frame(frame)
        assert frame_map.index_at(editor.video_time()) == frame_map.index_of_editor_frame(frame), index
    editor.screenshot("box-varying-rate")
