"""The whole path with the shipped model: the page shows and returns the model's result, whatever it is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from backend.label_studio.outgoing.views import from_annotation
from tests.e2e.editor import Editor, mask_of
from tests.e2e.prelabelled import Prelabelled, prelabelled
from tests.e2e.serving import MadeProject, Question, Trajseg, make_project
from tests.e2e.studio import LabelStudio
from trajseg.video import write_video

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
NAMES = ("shapes", "real")


@pytest.fixture(scope="module")
def asked(
    tiny: Trajseg, studio: LabelStudio, questions: list[Question], tmp_path_factory: pytest.TempPathFactory
) -> MadeProject:
    """A project with the rendered clip and the start of the real one, after the Data Manager's action."""
    shapes, real = questions
    beginning = (rgb for _, rgb in real.clip.frames(range(24)))
    short = write_video(tmp_path_factory.mktemp("short") / "short.mp4", beginning, real.clip.fps)
    project = make_project(tiny, studio, "mask", "Shipped", [shapes, Question(short, real.instruction)])
    studio.retrieve_predictions(project.id, project.tasks)
    return project


@pytest.fixture(scope="module", params=range(len(NAMES)), ids=NAMES)
def task(request: pytest.FixtureRequest, asked: MadeProject, studio: LabelStudio, tiny: Trajseg) -> Prelabelled:
    return prelabelled(studio, tiny, asked, request.param)


def test_what_the_model_says_arrives_under_its_version(
    task: Prelabelled, asked: MadeProject, studio: LabelStudio
) -> None:
    backend = studio.call("GET", "/api/ml", params={"project": asked.id})[0]
    assert task.prediction["model_version"] == task.result.model_version == backend["model_version"]
    assert len(task.task["data"]["frames"]) == len(task.frame_index) > 0
    assert from_annotation(task.prediction, task.config, task.frame_index).instruction == task.result.instruction


def test_the_page_shows_it_and_submit_gives_it_back_pixel_exact(
    task: Prelabelled, asked: MadeProject, editor: Editor, studio: LabelStudio
) -> None:
    expected = task.masks()
    editor.open_task(asked.id, task.id, regions=len(expected))
    shown = {
        (label, task.frame_index[region["frame"]]): mask_of(region["png"])
        for region in editor.regions()
        for label in region["labels"]
    }
    editor.show_frame(len(task.frame_index) // 2)
    editor.screenshot(f"shipped-{NAMES[asked.tasks.index(task.id)]}")
    editor.submit()
    [annotation] = studio.annotations(task.id)
    back = from_annotation(annotation, task.config, task.frame_index)
    assert shown.keys() == back.masks.keys() == expected.keys()
    for place, mask in expected.items():
        assert np.array_equal(shown[place], mask), place
        assert np.array_equal(back.masks[place], mask), place
    assert back.edited == set()


def test_exports_have_the_models_words_without_its_tokens(
    task: Prelabelled, asked: MadeProject, studio: LabelStudio, tiny: Trajseg
) -> None:
    [exported] = [
        one
        for one in studio.call("GET", f"/api/projects/{asked.id}/export", params={"exportType": "JSON"})
        if one["id"] == task.id
    ]
    texts = json.dumps([item for item in exported["annotations"][0]["result"] if item["type"] == "textarea"])
    tracks = zip(task.labels, task.result.tracks, strict=True)
    captions = {label: track.caption for label, track in tracks if track.present and track.caption}
    for label, caption in captions.items():
        assert f"{label}: {caption}" in texts
    formats = tiny.exported(asked.id)
    for caption in captions.values():
        assert json.dumps(caption) in formats["trajseg"]
    for name, text in {"label studio": json.dumps(exported["annotations"]), **formats}.items():
        assert "[SEG]" not in text, name
