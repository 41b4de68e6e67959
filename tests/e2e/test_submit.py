"""Submit is never refused, and no stroke lost, because trajseg replaced a prediction that somebody has open."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.editor import MINUTE, Editor, browser_page, mask_of
from tests.e2e.prelabelled import Prelabelled, prelabelled
from tests.e2e.serving import JOB_SECONDS, MadeProject, Question, Trajseg, make_project, serving
from tests.e2e.studio import LabelStudio, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def captioning(studio: LabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trajseg]:
    """`trajseg serve` with an engine that captions tracks slowly."""
    with serving(studio, tmp_path_factory.mktemp("captioning"), "colour_engine:describing") as running:
        yield running


@pytest.fixture(scope="module")
def project(captioning: Trajseg, studio: LabelStudio, questions: list[Question]) -> MadeProject:
    made = make_project(captioning, studio, "mask", "Submit", [questions[0], Question(questions[0].video, "the blue")])
    studio.retrieve_predictions(made.id, made.tasks)
    return made


def delivered(trajseg: Trajseg, task_id: int, kind: str, count: int = 1) -> list[dict]:
    """The jobs of a kind for a task, once this many are done and delivered."""

    def over() -> list[dict] | None:
        jobs = [job for job in trajseg.jobs(task_id) if job["kind"] == kind]
        assert not [job for job in jobs if job["state"] in ("failed", "cancelled")], jobs
        there = [job for job in jobs if job["state"] == "done" and trajseg.delivered(job["id"])]
        return there if len(there) >= count else None

    return wait_until(f"{kind} job of task {task_id}", over, JOB_SECONDS, every=0.3)


def duplicate(editor: Editor, prediction_id: int) -> None:
    """Selects a prediction and makes an annotation of it, like the Duplicate button."""
    editor.page.wait_for_function(
        "id => Htx.annotationStore.predictions.some(p => String(p.pk) === String(id))",
        arg=str(prediction_id),
        timeout=2 * MINUTE,
    )
    editor.page.evaluate(
        """id => { const store = Htx.annotationStore;
            const held = store.predictions.find(p => String(p.pk) === String(id));
            const made = store.addAnnotationFromPrediction(held);
            store.selectAnnotation(made.id) }""",
        str(prediction_id),
    )
    editor.page.wait_for_function("() => Htx.annotationStore.selected.regions.length > 0")


def with_a_stroke(task: Prelabelled) -> list[dict]:
    """The prediction's results without one mask: another annotator's submission."""
    results = copy.deepcopy(task.prediction["result"])
    masks = [item for item in results if item["type"] == "bitmasklabels"]
    results.remove(masks[len(masks) // 2])
    return results


def test_an_open_refined_prediction_can_be_submitted_after_its_captions_arrived(
    project: MadeProject, captioning: Trajseg, studio: LabelStudio, editor: Editor
) -> None:
    task = prelabelled(studio, captioning, project, 0)
    free = next(label for label in task.config.labels if label not in task.labels)
    middle = len(task.frame_index) // 2
    editor.open_task(project.id, task.id, regions=len(task.masks()))
    editor.show_frame(middle)
    editor.paint(free)
    editor.submit()
    delivered(captioning, task.id, "refine")
    version = captioning.jobs(task.id)[0]["model_version"]
    [refined] = [one for one in studio.predictions(task.id) if one["model_version"] == version]
    assert not [job for job in captioning.jobs(task.id) if job["kind"] == "caption" and job["state"] == "done"]
    editor.open_task(project.id, task.id)
    duplicate(editor, refined["id"])
    delivered(captioning, task.id, "caption")
    editor.show_frame(0)
    editor.paint(free)
    strokes = {
        (region["labels"][0], region["frame"]): mask_of(region["png"]).sum()
        for region in editor.regions()
        if region["type"] == "bitmaskregion"
    }
    editor.screenshot("submit-after-captions")
    editor.submit()
    saved = max(studio.annotations(task.id), key=lambda one: one["id"])
    assert saved["parent_prediction"] == refined["id"]
    kept = {
        (item["value"]["bitmasklabels"][0], item["item_index"]): mask_of(item["value"]["imageDataURL"]).sum()
        for item in saved["result"]
        if item["type"] == "bitmasklabels"
    }
    assert kept == strokes
    [captioned] = [one for one in studio.predictions(task.id) if one["id"] == refined["id"]]
    texts = [text for item in captioned["result"] for text in item["value"].get("text", [])]
    assert f"{free}: something that was painted" in texts


def test_two_annotators_the_second_one_submits_after_the_first_ones_correction_came_back(
    project: MadeProject, captioning: Trajseg, studio: LabelStudio, chromium: Any, pictures: Path
) -> None:
    task = prelabelled(studio, captioning, project, 1)
    with browser_page(chromium) as page:
        second = Editor(page, studio, pictures)
        second.open_task(project.id, task.id, regions=len(task.masks()))
        studio.call(
            "POST",
            f"/api/tasks/{task.id}/annotations/",
            json={"result": with_a_stroke(task), "parent_prediction": task.prediction["id"], "lead_time": 3},
        )
        delivered(captioning, task.id, "refine")
        second.show_frame(0)
        second.paint(task.labels[0])
        second.screenshot("submit-second-annotator")
        second.submit()
    saved = max(studio.annotations(task.id), key=lambda one: one["id"])
    assert saved["parent_prediction"] == task.prediction["id"]
    listed = {one["id"]: (one["model_version"], one["score"]) for one in studio.predictions(task.id)}
    version = task.result.model_version
    assert listed[task.prediction["id"]] == (f"{version} (prelabel, earlier)", None)
    assert [one for one, (name, _) in listed.items() if name == version] != []
