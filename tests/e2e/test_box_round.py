"""The round in the box view: a box that a person set, refined tracks adopted by one button, a range made shorter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page

from backend.label_studio.boxes import from_sequence
from tests.e2e.editor import MINUTE, Editor, browser_page
from tests.e2e.prelabelled import Prelabelled, prelabelled
from tests.e2e.serving import JOB_SECONDS, MadeProject, Question, Trajseg, make_project
from tests.e2e.studio import LabelStudio, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
BY = 6.0
"""Percent by which the person moves the box to the right."""


@pytest.fixture(scope="module")
def project(trajseg: Trajseg, studio: LabelStudio, questions: list[Question]) -> MadeProject:
    made = make_project(trajseg, studio, "box", "Box round", questions[:1])
    xml = studio.project(made.id)["label_config"]
    tag = (
        '<TimelineLabels name="events" toName="video"><Label value="track-1"/><Label value="track-2"/></TimelineLabels>'
    )
    changed = f"{xml.rstrip().removesuffix('</View>')}{tag}</View>"
    studio.call("PATCH", f"/api/projects/{made.id}/", json={"label_config": changed})
    studio.retrieve_predictions(made.id, made.tasks)
    return made


@pytest.fixture(scope="module")
def task(project: MadeProject, studio: LabelStudio, trajseg: Trajseg) -> Prelabelled:
    return prelabelled(studio, trajseg, project, 0)


@pytest.fixture(scope="module")
def page(chromium: Any) -> Any:
    with browser_page(chromium) as opened:
        yield opened


def refined(trajseg: Trajseg, task: Prelabelled, count: int) -> dict[str, Any]:
    """The newest refine job of the task once there are so many and all are delivered."""

    def over() -> dict[str, Any] | None:
        jobs = [job for job in trajseg.jobs(task.id) if job["kind"] == "refine"]
        assert not [job for job in jobs if job["state"] == "failed"], jobs
        done = [job for job in jobs if job["state"] == "done" and trajseg.delivered(job["id"])]
        return jobs[0] if len(done) == count else None

    found: dict[str, Any] = wait_until(f"{count} refine jobs of task {task.id}", over, JOB_SECONDS, every=0.5)
    return found


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


def said(page: Page, button: str) -> str:
    """What the page says once a button of it was pressed."""
    page.get_by_role("button", name=button).first.click()
    page.wait_for_function("() => document.getElementById('said').classList.contains('is-shown')")
    return page.locator("#said").inner_text()


def test_boxes_are_adopted_by_one_button_and_a_shorter_range_takes_the_track_away(
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
    job = refined(trajseg, task, 1)
    before = results(studio, task)
    moved = boxes(before, label, last)[middle]

    page.goto(f"{trajseg.url}/page/jobs/{job['id']}")
    page.get_by_role("link", name="See what would change").click()
    page.screenshot(path=editor.pictures / "adoption-box-planned.png", full_page=True)
    page.go_back()
    assert "boxes" in said(page, "Adopt into annotation") or "box of" in page.locator("#said").inner_text()
    after = results(studio, task)
    assert boxes(after, label, last)[middle] == pytest.approx(moved, abs=0.001), "the box that the person set"
    track = next(one for one in trajseg.result(job["id"]).tracks if one.label == label)
    drawn = boxes(after, label, last)
    assert {frame - 1 for frame in drawn} - {middle - 1} == set(track.present) - {middle - 1}
    for index in set(track.present) - {middle - 1}:
        x, y, width, height = track.box(index)
        size = (task.result.width, task.result.height)
        wanted = [100 * value / side for value, side in zip((x, y, width, height), size * 2, strict=True)]
        assert np.abs(np.subtract(drawn[index + 1], wanted)).max() <= 0.6, index
    page.get_by_role("link", name="changed").first.click()
    page.wait_for_load_state("networkidle")
    assert page.evaluate("() => [...document.images].filter(i => i.complete && !i.naturalWidth).length") == 0
    page.screenshot(path=editor.pictures / "adoption-box-changed.png", full_page=True)

    editor.open_task(project.id, task.id, regions=1)
    assert editor.boxes_at(middle)[label] == pytest.approx(moved, abs=0.001)
    editor.show_video_frame(middle + 1)
    editor.screenshot("adoption-box-in-label-studio")
    # Our own writing is nobody's correction: its webhook has long been followed.
    editor.page.wait_for_timeout(8000)
    refined(trajseg, task, 1)

    start, end = ranges(results(studio, task), label)[-1]
    cut = (start + end) // 2
    editor.page.wait_for_function(
        "() => Htx.annotationStore.selected.regions.some(r => r.type === 'timelineregion')", timeout=MINUTE
    )
    editor.page.evaluate(
        """([start, cut]) => Htx.annotationStore.selected.regions
            .find(r => r.type === 'timelineregion' && r.ranges[0].start === start)
            .setRange([start, cut], {mode: 'edit'})""",
        [start, cut],
    )
    editor.screenshot("box-range-shorter")
    editor.update()
    assert ranges(results(studio, task), label)[-1] == (start, cut), "Label Studio keeps the shorter range"
    job = refined(trajseg, task, 2)
    track = next(one for one in trajseg.result(job["id"]).tracks if one.label == label)
    assert track.present[-1] == cut - 1, "frames taken out of the range show no object"
    page.goto(f"{trajseg.url}/page/jobs/{job['id']}")
    said(page, "Adopt into annotation")
    assert max(boxes(results(studio, task), label, last)) == cut
    assert ranges(results(studio, task), label)[-1][1] == cut
    page.goto(f"{trajseg.url}/page/jobs/{job['id']}")
    said(page, "Undo")
    assert max(boxes(results(studio, task), label, last)) == end
