"""The round in the box view: a box set by a person, adoption with a button, shortened and extended ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page

from backend.label_studio.boxes import from_sequence
from tests.e2e.editor import MINUTE, Editor, pressed
from tests.e2e.prelabelled import Prelabelled
from tests.e2e.serving import MadeProject, Question, Trajseg, make_project
from tests.e2e.studio import LabelStudio
from trajseg.tracks import rle

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
BY = 6.0
"""Percent by which the person moves the box to the right."""
MORE = 3
"""Frames by which the person extends a range."""


@pytest.fixture(scope="module")
def project(trajseg: Trajseg, studio: LabelStudio, questions: list[Question]) -> MadeProject:
    square = Question(questions[0].video, "the blue square")
    made = make_project(trajseg, studio, "box", "Box round", [square])
    xml = studio.project(made.id)["label_config"]
    tag = (
        '<TimelineLabels name="events" toName="video"><Label value="track-1"/><Label value="track-2"/></TimelineLabels>'
    )
    changed = f"{xml.rstrip().removesuffix('</View>')}{tag}</View>"
    studio.call("PATCH", f"/api/projects/{made.id}/", json={"label_config": changed})
    studio.retrieve_predictions(made.id, made.tasks)
    return made


def results(studio: LabelStudio, task: Prelabelled) -> list[dict[str, Any]]:
    [annotation] = studio.annotations(task.id)
    found: list[dict[str, Any]] = annotation["result"]
    return found


def boxes(items: list[dict[str, Any]], label: str, last: int) -> dict[int, tuple[float, ...]]:
    """Percent box by 1-based frame."""
    [region] = [one for one in items if one["type"] == "videorectangle" and one["value"]["labels"] == [label]]
    return dict(from_sequence(region["value"]["sequence"], last))


def ranges(items: list[dict[str, Any]], label: str) -> list[tuple[int, int]]:
    found = [one for one in items if one["type"] == "timelinelabels" and one["value"]["timelinelabels"] == [label]]
    return sorted((span["start"], span["end"]) for one in found for span in one["value"]["ranges"])


def set_range(editor: Editor, start: int, end: int) -> None:
    """Drags the end of the timeline's range that starts there, like the editor's own handle."""
    editor.page.wait_for_function(
        "() => Htx.annotationStore.selected.regions.some(r => r.type === 'timelineregion')", timeout=MINUTE
    )
    editor.page.evaluate(
        """([start, end]) => Htx.annotationStore.selected.regions
            .find(r => r.type === 'timelineregion' && r.ranges[0].start === start)
            .setRange([start, end], {mode: 'edit'})""",
        [start, end],
    )


def newest(studio: LabelStudio, task: Prelabelled) -> dict[str, Any]:
    """The prediction to open: only it has a score."""
    [prediction] = [one for one in studio.predictions(task.id) if one["score"] is not None]
    return prediction


def test_boxes_are_adopted_by_one_button_and_ranges_end_the_track_or_carry_it_on(
    project: MadeProject, task: Prelabelled, trajseg: Trajseg, studio: LabelStudio, editor: Editor, page: Page
) -> None:
    [label] = task.labels
    last = task.result.frame_count
    middle = last // 2
    editor.open_task(project.id, task.id, regions=1)
    editor.show_video_frame(middle)
    editor.page.evaluate(
        """([frame, by]) => {
            const box = Htx.annotationStore.selected.regions.find(r => r.type === 'videorectangleregion');
            const {x, y, width, height} = box.getShape(frame);
            const keys = box.sequence.map(key => key.frame);
            // So that Label Studio draws straight lines to the box that was moved, all over the clip.
            keys.slice(1, -1).forEach(key => box.removeKeypoint(key));
            box.updateShape({x: x + by, y, width, height, rotation: 0}, frame);
        }""",
        [middle, BY],
    )
    editor.submit()
    job = trajseg.refinements(task.id, 1)[0]
    before = results(studio, task)
    moved = boxes(before, label, last)[middle]

    page.goto(f"{trajseg.url}/page/jobs/{job['id']}")
    page.get_by_role("link", name="See what would change").click()
    page.screenshot(path=editor.pictures / "adoption-box-planned.png", full_page=True)
    page.go_back()
    assert "boxes" in pressed(page, "Adopt into annotation") or "box of" in page.locator("#said").inner_text()
    after = results(studio, task)
    assert boxes(after, label, last)[middle] == pytest.approx(moved, abs=0.001), "the box that the person set"
    track = next(one for one in trajseg.result(job["id"]).tracks if one.label == label)
    drawn = boxes(after, label, last)
    assert {frame - 1 for frame in drawn} - {middle - 1} == set(track.present) - {middle - 1}
    for index in set(track.present) - {middle - 1}:
        box = track.box(index)
        assert box is not None
        size = (task.result.width, task.result.height)
        wanted = [100 * value / side for value, side in zip(box, size * 2, strict=True)]
        assert np.abs(np.subtract(drawn[index + 1], wanted)).max() <= 0.6, index
    page.get_by_role("link", name="changed").first.click()
    page.wait_for_load_state("networkidle")
    assert page.evaluate("() => [...document.images].filter(i => i.complete && !i.naturalWidth).length") == 0
    page.screenshot(path=editor.pictures / "adoption-box-changed.png", full_page=True)

    editor.open_task(project.id, task.id, regions=1)
    assert editor.boxes_at(middle)[label] == pytest.approx(moved, abs=0.001)
    editor.show_video_frame(middle + 1)
    editor.screenshot("adoption-box-in-label-studio")
    # Our own change is not a correction; its webhook has been handled long ago.
    editor.page.wait_for_timeout(8000)
    trajseg.refinements(task.id, 1)

    start, end = ranges(results(studio, task), label)[-1]
    cut = end - 2 * MORE
    set_range(editor, start, cut)
    editor.screenshot("box-range-shorter")
    editor.update()
    assert ranges(results(studio, task), label)[-1] == (start, cut), "Label Studio keeps the shorter range"
    job = trajseg.refinements(task.id, 2)[0]
    track = next(one for one in trajseg.result(job["id"]).tracks if one.label == label)
    assert track.present[-1] == cut - 1, "frames taken out of the range show no object"
    page.goto(f"{trajseg.url}/page/jobs/{job['id']}")
    pressed(page, "Adopt into annotation")
    assert max(boxes(results(studio, task), label, last)) == cut
    assert ranges(results(studio, task), label)[-1][1] == cut

    # The object is still there: an extended range propagates the track.
    editor.open_task(project.id, task.id, regions=1)
    set_range(editor, start, cut + MORE)
    editor.update()
    assert ranges(results(studio, task), label)[-1] == (start, cut + MORE), "Label Studio keeps the longer range"
    job = trajseg.refinements(task.id, 3)[0]
    track = next(one for one in trajseg.result(job["id"]).tracks if one.label == label)
    assert track.present[-1] == cut + MORE - 1
    whole = next(one for one in task.result.tracks if one.label == label)
    for index in range(cut, cut + MORE):
        assert rle.iou(track.frames[index].rle, whole.frames[index].rle) > 0.6, index
    prediction = newest(studio, task)
    [answer] = [item["value"]["text"] for item in prediction["result"] if item["from_name"] == "answer"]
    assert answer[0].endswith(f"{label}: the longer range was filled in on frames {cut + 1} to {cut + MORE}.")
    editor.open_task(project.id, task.id)
    editor.show_prediction(prediction["id"])
    editor.page.locator(".trajseg-answer").scroll_into_view_if_needed()
    editor.screenshot("box-range-longer")
    page.goto(f"{trajseg.url}/page/jobs/{job['id']}")
    page.screenshot(path=editor.pictures / "box-range-longer-job.png", full_page=True)
    pressed(page, "Adopt into annotation")
    assert max(boxes(results(studio, task), label, last)) == cut + MORE
    page.goto(f"{trajseg.url}/page/jobs/{job['id']}")
    pressed(page, "Undo")
    assert max(boxes(results(studio, task), label, last)) == cut
