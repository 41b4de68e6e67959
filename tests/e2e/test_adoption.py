"""Adopting refined tracks into the corrected annotation with a button on the job's page, and undoing it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page

from tests.e2e.editor import MINUTE, Editor, mask_of, pressed
from tests.e2e.prelabelled import Prelabelled
from tests.e2e.serving import MadeProject, Question, Trajseg, make_project
from tests.e2e.studio import LabelStudio, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def project(trajseg: Trajseg, studio: LabelStudio, questions: list[Question]) -> MadeProject:
    made = make_project(trajseg, studio, "mask", "Adopt", questions[:1])
    studio.retrieve_predictions(made.id, made.tasks)
    return made


@pytest.fixture(scope="module")
def free(task: Prelabelled) -> str:
    """A label that no track has."""
    return next(label for label in task.config.labels if label not in task.labels)


def masks(studio: LabelStudio, task: Prelabelled) -> dict[tuple[str, int], np.ndarray]:
    """Content of the task's only annotation, by label and picture."""
    [annotation] = studio.annotations(task.id)
    return {
        (item["value"]["bitmasklabels"][0], item.get("item_index") or 0): mask_of(item["value"]["imageDataURL"])
        for item in annotation["result"]
        if item["type"] == "bitmasklabels"
    }


def test_the_round_without_a_second_annotation(
    project: MadeProject,
    task: Prelabelled,
    free: str,
    trajseg: Trajseg,
    studio: LabelStudio,
    editor: Editor,
    page: Page,
) -> None:
    middle = len(task.frame_index) // 2
    editor.open_task(project.id, task.id, regions=len(task.masks()))
    editor.show_frame(middle)
    editor.paint(free)
    editor.submit()
    [job] = trajseg.refinements(task.id, 1)
    before = masks(studio, task)
    painted = before[free, middle]
    [annotation] = studio.annotations(task.id)

    page.goto(f"{trajseg.url}/page/jobs/{job['id']}")
    page.screenshot(path=editor.pictures / "adoption-offered.png")
    page.get_by_role("link", name="See what would change").click()
    page.screenshot(path=editor.pictures / "adoption-planned.png", full_page=True)
    page.go_back()
    said = pressed(page, f"Adopt into annotation {annotation['id']}")
    after = masks(studio, task)
    result = trajseg.result(job["id"])
    refined = next(track for track in result.tracks if track.label == free)
    wanted = {
        (free, place): refined.mask(index)
        for place, index in enumerate(task.frame_index)
        if refined.frames[index].rle is not None
    }
    assert len(wanted) > 3, "the stroke was carried to other pictures"
    assert f"{len(wanted) - 1} masks" in said
    assert {place: mask for place, mask in after.items() if place[0] == free}.keys() == wanted.keys()
    for place, mask in wanted.items():
        assert np.array_equal(after[place], mask), place
    assert np.array_equal(after[free, middle], painted), "what was painted is exact"
    for place, mask in before.items():
        assert np.array_equal(after[place], mask), place
    page.get_by_role("link", name=f"{len(wanted) - 1} masks changed").click()
    page.wait_for_load_state("networkidle")
    assert page.evaluate("() => [...document.images].filter(i => i.complete && !i.naturalWidth).length") == 0
    page.screenshot(path=editor.pictures / "adoption-changed.png", full_page=True)

    editor.open_task(project.id, task.id, regions=len(after))
    shown = {(region["labels"][0], region["frame"]): mask_of(region["png"]) for region in editor.regions()}
    assert {place: mask.sum() for place, mask in shown.items()} == {place: mask.sum() for place, mask in after.items()}
    editor.show_frame(middle + 1)
    editor.screenshot("adoption-in-label-studio")

    # Our own change is not a correction; its webhook has been handled long ago.
    editor.page.wait_for_timeout(8000)
    trajseg.refinements(task.id, 1)

    editor.show_frame(0)
    editor.paint(free)
    editor.update()
    newest = trajseg.refinements(task.id, 2)[0]
    result = trajseg.result(newest["id"])
    refined = next(track for track in result.tracks if track.label == free)
    assert [frame.index for frame in refined.frames if frame.provenance == "person"] == [
        task.frame_index[0],
        task.frame_index[middle],
    ]
    assert np.array_equal(refined.mask(task.frame_index[middle]), painted)
    assert len(studio.annotations(task.id)) == 1

    page.goto(f"{trajseg.url}/page/jobs/{job['id']}")
    assert "changed since" in pressed(page, "Undo"), "a person has painted on it"


def test_nothing_is_adopted_over_a_draft_and_an_undo_brings_back_what_was_there(
    project: MadeProject,
    task: Prelabelled,
    free: str,
    trajseg: Trajseg,
    studio: LabelStudio,
    editor: Editor,
    page: Page,
) -> None:
    newest = trajseg.refinements(task.id, 2)[0]
    [annotation] = studio.annotations(task.id)
    held = masks(studio, task)
    editor.open_task(project.id, task.id, regions=len(held))
    editor.show_frame(1)
    with editor.page.expect_response(
        lambda answer: answer.request.method in ("POST", "PATCH") and "/drafts" in answer.url, timeout=MINUTE
    ):
        editor.paint(free)
    page.goto(f"{trajseg.url}/page/jobs/{newest['id']}")
    assert "unsubmitted changes" in pressed(page, "Adopt into annotation")
    page.screenshot(path=editor.pictures / "adoption-refused.png")
    assert masks(studio, task).keys() == held.keys()
    [draft] = studio.call("GET", f"/api/tasks/{task.id}/drafts")
    studio.call("DELETE", f"/api/drafts/{draft['id']}/")

    page.reload()
    assert "changed" in pressed(page, f"Adopt into annotation {annotation['id']}")
    adopted = masks(studio, task)
    assert any(not np.array_equal(mask, held.get(place, ~mask)) for place, mask in adopted.items())
    page.goto(f"{trajseg.url}/page/jobs/{newest['id']}/adoption")
    page.get_by_role("button", name="Undo").click()
    page.wait_for_load_state("networkidle")
    page.screenshot(path=editor.pictures / "adoption-undone.png", full_page=True)
    again = masks(studio, task)
    assert again.keys() == held.keys()
    for place, mask in held.items():
        assert np.array_equal(again[place], mask), place
    answer = trajseg.client.get(f"/page/jobs/{newest['id']}")
    assert "Adopt into annotation" in answer.text


def test_the_results_of_a_deleted_annotation_are_withdrawn(
    project: MadeProject, task: Prelabelled, trajseg: Trajseg, studio: LabelStudio
) -> None:
    """The next person who opens the task starts from the first prediction again."""
    version = task.result.model_version
    [annotation] = studio.annotations(task.id)
    first = task.prediction["id"]
    assert {one["id"]: one["model_version"] for one in studio.predictions(task.id)}[first] != version
    studio.call("DELETE", f"/api/annotations/{annotation['id']}/")

    def columns() -> dict[str, Any] | None:
        [data] = [one["data"] for one in studio.tasks(project.id) if one["id"] == task.id]
        return data if data["trajseg_open"] == f"#{first} (prelabel)" else None

    data = wait_until("the first prediction to stand again", columns, MINUTE / 1000)
    assert data["trajseg_state"] == "prelabelled"
    assert [one["id"] for one in studio.predictions(task.id) if one["model_version"] == version] == [first]
