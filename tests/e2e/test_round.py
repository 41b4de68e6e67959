"""The round with a slow model: everything gets an answer, on the page and in the list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.editor import MINUTE, Editor
from tests.e2e.serving import JOB_SECONDS, MadeProject, Question, Trajseg, make_project, serving
from tests.e2e.studio import LabelStudio, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

TEXTS = """() => Object.fromEntries(Htx.annotationStore.selected.serializeAnnotation()
    .filter(r => r.type === 'textarea').map(r => [r.from_name, r.value.text]))"""
FIRST, SECOND, OPENED = 0, 1, 2


@pytest.fixture(scope="module")
def slow(studio: LabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trajseg]:
    """`trajseg serve` with an engine that takes 12 s for the clip; a page waits 6 s."""
    with serving(
        studio, tmp_path_factory.mktemp("slow"), "slow_engine:build", TRAJSEG_INTERACTIVE_WAIT_SECONDS="6"
    ) as running:
        yield running


@pytest.fixture(scope="module")
def project(slow: Trajseg, studio: LabelStudio, questions: list[Question]) -> MadeProject:
    """The clip of the shapes world three times."""
    video = questions[0].video
    return make_project(
        slow, studio, "mask", "Round", [Question(video, text) for text in ("the red", "the blue", "the red ring")]
    )


def data_of(studio: LabelStudio, project: MadeProject, number: int) -> dict[str, Any]:
    """The task's data: the Data Manager's columns."""
    [data] = [task["data"] for task in studio.tasks(project.id) if task["id"] == project.tasks[number]]
    return data


def state_of(studio: LabelStudio, project: MadeProject, number: int) -> str:
    return str(data_of(studio, project, number).get("trajseg_state", ""))


def await_state(studio: LabelStudio, project: MadeProject, number: int, beginning: str) -> str:
    def there() -> str:
        state = state_of(studio, project, number)
        return state if state.startswith(beginning) else ""

    return wait_until(f"state {beginning!r} of task {number}", there, JOB_SECONDS)


def answer_in(editor: Editor, beginning: str) -> str:
    """The text in the page's answer area, once it starts with this."""
    editor.page.wait_for_function(
        f"beginning => ((({TEXTS})().answer || [''])[0] || '').startsWith(beginning)", arg=beginning, timeout=MINUTE
    )
    [text] = editor.page.evaluate(TEXTS)["answer"]
    editor.page.locator(".trajseg-answer").scroll_into_view_if_needed()
    assert editor.page.locator(".trajseg-answer").get_by_text(text[:40]).is_visible()
    return text


@pytest.fixture(scope="module")
def prelabelled(project: MadeProject, studio: LabelStudio, editor: Editor) -> MadeProject:
    """Two tasks requested together; the states in the list meanwhile."""
    studio.retrieve_predictions(project.id, project.tasks[:2])
    running = await_state(studio, project, FIRST, "running")
    assert await_state(studio, project, SECOND, "queued") == "queued"
    editor.page.goto(f"{studio.url}/projects/{project.id}/data")
    editor.page.get_by_text("queued", exact=True).first.wait_for(timeout=MINUTE)
    editor.screenshot("round-states")
    assert running in ("running", *(f"running {tens}0 %" for tens in range(1, 11)))
    for number in (FIRST, SECOND):
        await_state(studio, project, number, "prelabelled")
    return project


def test_the_list_names_the_video_the_pictures_to_look_at_and_the_prediction_to_open(
    prelabelled: MadeProject, studio: LabelStudio
) -> None:
    data = data_of(studio, prelabelled, FIRST)
    [prediction] = studio.predictions(prelabelled.tasks[FIRST])
    assert data["trajseg_video"] == "shapes.mp4"
    assert data["trajseg_open"] == f"#{prediction['id']} (prelabel)"
    first = data["trajseg_review"].split("; ")[0]
    picture, frame = (int(word.strip("()")) for word in first.split() if word.strip("()").isdecimal())
    assert data["frame_index"][picture - 1] + 1 == frame
    region = next(item for item in prediction["result"] if item.get("item_index") == picture - 1)
    assert region["meta"]["text"][0].startswith(f"Frame {frame}")


def test_a_sentence_that_takes_longer_than_the_page_waits_comes_as_a_prediction_of_its_own(
    prelabelled: MadeProject, studio: LabelStudio, slow: Trajseg, editor: Editor
) -> None:
    task = prelabelled.tasks[FIRST]
    editor.open_task(prelabelled.id, task, regions=1)
    editor.give_instruction("the orange")
    text = answer_in(editor, 'Still running: "the orange"')
    assert "Open the task again" in text
    assert editor.page.evaluate(TEXTS)["instruction"] == ["the red"]
    editor.screenshot("round-still-running")
    # The page is left.
    editor.page.goto(f"{studio.url}/projects/{prelabelled.id}/data")
    await_state(studio, prelabelled, FIRST, "prelabelled; typed: running")
    await_state(studio, prelabelled, FIRST, "prelabelled; typed: ready, open the task again")
    listed = {one["model_version"]: one["score"] for one in studio.predictions(task)}
    assert listed.keys() == {"slow", "slow (typed)"}
    assert listed["slow"] is not None
    assert listed["slow (typed)"] is None
    assert data_of(studio, prelabelled, FIRST)["trajseg_open"].endswith("(prelabel)")
    editor.page.reload()
    editor.page.get_by_text("typed: ready", exact=False).first.wait_for(timeout=MINUTE)
    editor.screenshot("round-typed-ready")
    editor.open_task(prelabelled.id, task)
    assert state_of(studio, prelabelled, FIRST) != ""
    editor.page.get_by_text("slow (typed)").first.wait_for(timeout=MINUTE)
    editor.screenshot("round-predictions")
    wait_until("state of the opened task", lambda: state_of(studio, prelabelled, FIRST) == "prelabelled", JOB_SECONDS)


def test_nothing_there_and_not_understood_are_distinguished(
    prelabelled: MadeProject, studio: LabelStudio, slow: Trajseg, editor: Editor
) -> None:
    task = prelabelled.tasks[SECOND]
    editor.open_task(prelabelled.id, task, regions=1)
    editor.give_instruction("where is it?")
    # The page now waits only two seconds. If the worker needs more,
    # the list shows its answer, and so does the page when asked again.
    await_state(studio, prelabelled, SECOND, "prelabelled; typed: not understood")
    editor.give_instruction("where is it?")
    text = answer_in(editor, 'Not understood: "where is it?"')
    assert "is a question. Name an object" in text
    editor.screenshot("round-not-understood")
    await_state(studio, prelabelled, SECOND, "prelabelled; typed: not understood: 'where is it?' is a question")
    editor.give_instruction("the green")
    assert "about" in answer_in(editor, 'Still running: "the green"')
    await_state(studio, prelabelled, SECOND, "prelabelled; typed: found nothing")
    editor.give_instruction("the green")
    answer_in(editor, 'Nothing there for "the green"')
    editor.screenshot("round-nothing-there")
    assert editor.page.evaluate(TEXTS)["instruction"] == ["the blue"]
    # An instruction without a target leaves no prediction, and nothing in the submitted annotation.
    editor.submit()
    [annotation] = studio.annotations(task)
    texts = {item["from_name"]: item["value"]["text"] for item in annotation["result"] if item["type"] == "textarea"}
    assert texts["instruction"] == ["the blue"]
    assert not [line for line in texts.get("caption", []) if "none" in line or "[SEG]" in line]
    assert len(studio.predictions(task)) == 1


def test_pictures_of_an_open_task_keep_their_places(
    prelabelled: MadeProject, studio: LabelStudio, slow: Trajseg, editor: Editor
) -> None:
    """Label Studio requests a prediction when a task is opened; masks painted meanwhile keep their pictures."""
    before = data_of(studio, prelabelled, OPENED)
    editor.open_task(prelabelled.id, prelabelled.tasks[OPENED])
    await_state(studio, prelabelled, OPENED, "prelabelled")
    after = data_of(studio, prelabelled, OPENED)
    count = len(before["frame_index"])
    assert after["frame_index"][:count] == before["frame_index"]
    assert after["frames"][:count] == before["frames"]
    assert len(after["frame_index"]) > count
    label = "track-1"
    editor.show_frame(count - 1)
    editor.paint(label)
    editor.submit()
    [annotation] = studio.annotations(prelabelled.tasks[OPENED])
    [painted] = [item for item in annotation["result"] if item["type"] == "bitmasklabels"]
    assert after["frame_index"][painted["item_index"]] == before["frame_index"][count - 1]
    job = wait_until(
        "refine job",
        lambda: [one for one in slow.jobs(prelabelled.tasks[OPENED]) if one["kind"] == "refine"],
        JOB_SECONDS,
    )[0]
    wait_until("refined tracks", lambda: slow.delivered(job["id"]), JOB_SECONDS)
    [track] = [
        one for one in slow.result(job["id"]).tracks if one.frames[before["frame_index"][-1]].provenance == "person"
    ]
    assert track.mask(before["frame_index"][-1]).any()
    await_state(studio, prelabelled, OPENED, "refined")
