"""A person paints on one shown frame and submits: the other frames follow, and the page has the refined track."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from backend.label_studio.outgoing.views import from_annotation
from tests.e2e.editor import MINUTE, Editor, mask_of
from tests.e2e.prelabelled import Prelabelled, prelabelled
from tests.e2e.serving import JOB_SECONDS, MadeProject, Question, Trajseg, make_project
from tests.e2e.studio import LabelStudio, wait_until
from trajseg.tracks import Result, rle

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
PAINTED, HINTED, CLICKED, NOTHING = 0, 1, 2, 3


@pytest.fixture(scope="module")
def project(trajseg: Trajseg, studio: LabelStudio, questions: list[Question]) -> MadeProject:
    """The clip of the shapes world four times, in a project made by `trajseg project create`."""
    more = ("the blue square", "the blue one", "the green one")
    asked = [questions[0], *(Question(questions[0].video, text) for text in more)]
    made = make_project(trajseg, studio, "mask", "Correct", asked)
    studio.retrieve_predictions(made.id, made.tasks)
    return made


@pytest.fixture(scope="module")
def shapes(project: MadeProject, studio: LabelStudio, trajseg: Trajseg) -> Prelabelled:
    return prelabelled(studio, trajseg, project, PAINTED)


@pytest.fixture(scope="module")
def position(shapes: Prelabelled) -> int:
    """A picture on which the object is, in the middle of the clip."""
    here = [index for label, index in shapes.masks() if label == shapes.labels[0]]
    return shapes.frame_index.index(here[len(here) // 2])


@pytest.fixture(scope="module")
def submitted(
    shapes: Prelabelled, position: int, project: MadeProject, editor: Editor, studio: LabelStudio
) -> dict[str, Any]:
    """The annotation after a brush stroke on that picture, and Submit."""
    editor.open_task(project.id, shapes.id, regions=len(shapes.masks()))
    editor.show_frame(position)
    editor.paint(shapes.labels[0])
    editor.screenshot("correction-painted")
    editor.submit()
    [annotation] = studio.annotations(shapes.id)
    return annotation


def finished(trajseg: Trajseg, task_id: int, kind: str) -> dict:
    """The job of a kind for a task once it is done and its prediction has arrived."""

    def over() -> dict[str, Any] | None:
        for job in trajseg.jobs(task_id):
            if job["kind"] == kind:
                assert job["state"] not in ("failed", "cancelled"), f"{job['error']} {job['remedy']}"
                if job["state"] == "done" and trajseg.delivered(job["id"]):
                    return job
        return None

    return wait_until(f"{kind} job of task {task_id}", over, JOB_SECONDS, every=1)


@pytest.fixture(scope="module")
def refined(submitted: dict[str, Any], shapes: Prelabelled, trajseg: Trajseg) -> tuple[dict[str, Any], Result]:
    """The refine job and its tracks."""
    job = finished(trajseg, shapes.id, "refine")
    return job, trajseg.result(job["id"])


def test_the_painted_frame_stays_as_it_was_painted(
    shapes: Prelabelled, submitted: dict[str, Any], refined: tuple[dict[str, Any], Result], position: int
) -> None:
    index, label = shapes.frame_index[position], shapes.labels[0]
    painted = from_annotation(submitted, shapes.config, shapes.frame_index).masks[label, index]
    _, result = refined
    track = next(track for track in result.tracks if track.label == label)
    assert np.array_equal(track.mask(index), painted)
    assert painted.sum() > shapes.masks()[label, index].sum()
    assert track.frames[index].provenance == "person"


def test_no_frame_around_the_stroke_loses_what_it_had(
    shapes: Prelabelled, refined: tuple[dict[str, Any], Result], position: int
) -> None:
    """The stroke is beside the object, and the neighbouring frames have no such gap: they do not change."""
    index = shapes.frame_index[position]
    before, after = shapes.result.tracks[0], refined[1].tracks[0]
    for near in (index - 1, index + 1):
        assert not (before.mask(near) & ~after.mask(near)).any()


def test_it_comes_back_once_and_the_annotation_is_left_alone(
    shapes: Prelabelled,
    submitted: dict[str, Any],
    refined: tuple[dict[str, Any], Result],
    studio: LabelStudio,
    trajseg: Trajseg,
    project: MadeProject,
) -> None:
    predictions = studio.predictions(shapes.id)
    assert len(predictions) == 2
    version = shapes.result.model_version
    # The first prediction stays while somebody may have it open, marked as the earlier one.
    assert {prediction["model_version"] for prediction in predictions} == {version, f"{version} (prelabel, earlier)"}
    [annotation] = studio.annotations(shapes.id)
    assert annotation["result"] == submitted["result"]
    assert annotation["parent_prediction"] == shapes.prediction["id"]
    [data] = [task["data"] for task in studio.tasks(project.id) if task["id"] == shapes.id]
    assert data["trajseg_state"] == "refined"
    assert data["trajseg_review"].startswith(f"{shapes.labels[0]}: picture ")
    assert 0 < data["trajseg_doubt"] < 1
    assert [job["kind"] for job in trajseg.jobs(shapes.id)] == ["refine", "prelabel"]


def test_the_refined_track_is_there_when_the_task_is_opened_again(
    shapes: Prelabelled,
    refined: tuple[dict[str, Any], Result],
    studio: LabelStudio,
    project: MadeProject,
    editor: Editor,
    position: int,
) -> None:
    _, result = refined
    newest = max(prediction["id"] for prediction in studio.predictions(shapes.id))
    editor.open_task(project.id, shapes.id)
    editor.show_prediction(newest)
    expected = {
        (track.label, index): track.mask(index)
        for track in result.tracks
        for index in shapes.frame_index
        if track.frames[index].rle is not None
    }
    editor.page.wait_for_function(
        f"() => Htx.annotationStore.selected.regions.filter(r => r.type === 'bitmaskregion').length >= {len(expected)}"
    )
    shown = {
        (label, shapes.frame_index[region["frame"]]): mask_of(region["png"])
        for region in editor.regions()
        for label in region["labels"]
    }
    assert shown.keys() == expected.keys()
    for place, mask in expected.items():
        assert np.array_equal(shown[place], mask), place
    editor.show_frame(position + 1)
    editor.screenshot("correction-refined")


def test_the_data_manager_has_a_tab_that_begins_with_what_is_most_doubtful(
    shapes: Prelabelled,
    refined: tuple[dict[str, Any], Result],
    project: MadeProject,
    editor: Editor,
    studio: LabelStudio,
    trajseg: Trajseg,
) -> None:
    """A task in which nothing was found is not certain, and is marked so."""
    trajseg.job_of(project.tasks[NOTHING], project.questions[NOTHING].instruction)
    views = studio.call("GET", "/api/dm/views/", params={"project": project.id})
    assert [view["data"]["title"] for view in views] == ["Default", "Most doubtful first"]
    editor.page.goto(f"{studio.url}/projects/{project.id}/data?tab={views[1]['id']}")
    editor.page.get_by_text("refined", exact=True).first.wait_for(timeout=2 * MINUTE)
    editor.screenshot("correction-data-manager")
    listed = studio.call("GET", "/api/tasks", params={"view": views[1]["id"]})["tasks"]
    doubts = [task["data"]["trajseg_doubt"] for task in listed]
    assert doubts == sorted(doubts, reverse=True)
    [nothing] = [task["data"] for task in listed if task["id"] == project.tasks[NOTHING]]
    assert (nothing["trajseg_state"], nothing["trajseg_doubt"]) == ("found nothing", 0.5)
    [prediction] = studio.predictions(project.tasks[NOTHING])
    assert prediction["score"] == 0.5


def test_a_hint_makes_a_track_of_its_own(
    project: MadeProject, studio: LabelStudio, trajseg: Trajseg, editor: Editor, questions: list[Question]
) -> None:
    """A rectangle on one picture, around an object not in the instruction."""
    task = prelabelled(studio, trajseg, project, HINTED)
    clip = questions[0].clip
    editor.open_task(project.id, task.id, regions=len(task.masks()))
    middle = len(task.frame_index) // 2
    index = task.frame_index[middle]
    [(_, rgb)] = clip.frames([index])
    there = np.abs(rgb.astype(int) - (255, 140, 0)).sum(axis=2) < 110
    rows, columns = np.where(there)
    assert len(rows) > 50, "the orange ring is not in this picture"
    editor.show_frame(middle)
    toggle = editor.page.locator("label", has_text="Auto-Annotation")
    if not toggle.locator("input").is_checked():
        toggle.click()
    editor.page.locator(".lsf-label_clickable", has_text=re.compile("^hint")).first.click()
    editor.page.locator(".lsf-tool_smart").first.click()
    editor.page.wait_for_function(
        """() => Htx.annotationStore.selected.names.get('image').getToolsManager()
            .findSelectedTool().fullName === 'RectangleTool-dynamic'"""
    )
    stage = editor._stage()
    left, right = (stage["width"] * value / clip.width for value in (columns.min() - 3, columns.max() + 4))
    top, bottom = (stage["height"] * value / clip.height for value in (rows.min() - 3, rows.max() + 4))
    mouse = editor.page.mouse
    with editor.page.expect_response(lambda answer: "interactive-annotating" in answer.url, timeout=2 * MINUTE) as told:
        mouse.move(stage["x"] + left, stage["y"] + top)
        mouse.down()
        mouse.move(stage["x"] + (left + right) / 2, stage["y"] + (top + bottom) / 2)
        mouse.move(stage["x"] + right, stage["y"] + bottom)
        mouse.up()
    assert told.value.ok, told.value.text()
    suggestions = editor.wait_for_suggestions()
    editor.screenshot("correction-hint")
    labels = {label for suggestion in suggestions for label in suggestion["labels"]}
    assert len(labels) == 1
    assert not labels & set(task.labels)
    assert middle in {suggestion["frame"] for suggestion in suggestions}
    job = finished(trajseg, task.id, "refine")
    result = trajseg.result(job["id"])
    assert result.tracks[0].to_json() == task.result.tracks[0].to_json()
    hinted = next(track for track in result.tracks if track.label in labels)
    assert rle.iou(hinted.frames[index].rle, rle.encode(there)) > 0.5
    assert len(hinted.present) > 5


def smart_tool(editor: Editor, label: str, tool: str) -> None:
    """Switches Auto-Annotation on, and chooses a smart tag's label and tool."""
    toggle = editor.page.locator("label", has_text="Auto-Annotation")
    if not toggle.locator("input").is_checked():
        toggle.click()
    editor.page.locator(".lsf-label_clickable", has_text=re.compile(f"^{label}")).first.click()
    editor.page.evaluate(
        """name => { const tools = Htx.annotationStore.selected.names.get('image').getToolsManager();
            const one = tools.allTools().find(t => t.fullName === name);
            tools.selectTool(one, true); }""",
        tool,
    )


def sent(editor: Editor, x: float, y: float, to: tuple[float, float] | None = None) -> dict[str, Any]:
    """Clicks or draws a rectangle at fractions of the picture; returns Label Studio's request to the backend."""
    stage, mouse = editor._stage(), editor.page.mouse
    with editor.page.expect_request(lambda one: "interactive-annotating" in one.url, timeout=MINUTE) as asked:
        mouse.move(stage["x"] + stage["width"] * x, stage["y"] + stage["height"] * y)
        mouse.down()
        if to is not None:
            mouse.move(stage["x"] + stage["width"] * (x + to[0]) / 2, stage["y"] + stage["height"] * (y + to[1]) / 2)
            mouse.move(stage["x"] + stage["width"] * to[0], stage["y"] + stage["height"] * to[1])
        mouse.up()
    body = asked.value.post_data_json
    assert isinstance(body, dict)
    return body


def test_a_click_with_the_smart_point_is_a_mark_and_a_negative_box_takes_away(
    project: MadeProject, studio: LabelStudio, trajseg: Trajseg, editor: Editor, questions: list[Question]
) -> None:
    """A single click sends nothing with the rectangle's tool; with the point's it does."""
    task = prelabelled(studio, trajseg, project, CLICKED)
    clip, middle = questions[0].clip, len(task.frame_index) // 2
    index = task.frame_index[middle]
    [(_, rgb)] = clip.frames([index])
    ring = np.abs(rgb.astype(int) - (255, 140, 0)).sum(axis=2) < 110
    across, down = (int(value) for value in sorted(zip(*np.where(ring)[::-1], strict=True))[3])
    before = {job["id"] for job in trajseg.jobs(task.id)}
    editor.open_task(project.id, task.id)
    editor.show_frame(middle)
    smart_tool(editor, "point", "KeyPointTool-dynamic")
    body = sent(editor, (across + 0.5) / clip.width, (down + 0.5) / clip.height)
    [result] = body["context"]["result"]
    assert (result["type"], result["item_index"]) == ("keypointlabels", middle)
    editor.screenshot("correction-point")

    def over() -> dict[str, Any] | None:
        fresh = [job for job in trajseg.jobs(task.id) if job["id"] not in before and job["kind"] == "refine"]
        return next((job for job in fresh if job["state"] == "done" and trajseg.delivered(job["id"])), None)

    job = wait_until("the point's job", over, JOB_SECONDS, every=0.5)
    assert any(track.frames[index].provenance == "hint" for track in trajseg.result(job["id"]).tracks)

    before.add(job["id"])
    square = next(track for track in trajseg.result(job["id"]).tracks if track.label == task.labels[0])
    rows, columns = np.where(square.mask(index))
    middle_column = int(np.median(columns))
    editor.open_task(project.id, task.id)
    editor.show_frame(middle)
    smart_tool(editor, "not this", "RectangleTool-dynamic")
    # The right half of the square, from above it: a drag that starts on a mask, here the ring's, draws nothing.
    start = (middle_column / clip.width, (rows.min() - 6) / clip.height)
    body = sent(editor, *start, ((columns.max() + 6) / clip.width, (rows.max() + 6) / clip.height))
    assert body["context"]["result"][0]["value"]["rectanglelabels"] == ["not this"]
    editor.screenshot("correction-not-this")
    job = wait_until("the negative mark's job", over, JOB_SECONDS, every=0.5)
    after = next(track for track in trajseg.result(job["id"]).tracks if track.label == square.label)
    inside = np.zeros((clip.height, clip.width), bool)
    inside[rows.min() : rows.max() + 1, middle_column + 2 : columns.max() + 1] = True
    assert (square.mask(index) & inside).any()
    assert not (after.mask(index) & inside).any()
    assert after.mask(index).any(), "the other half stays"
