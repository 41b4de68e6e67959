"""An instruction typed on the page gets suggestions on its pictures, accepted and submitted like any mask."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from backend.label_studio.outgoing.views import from_annotation
from tests.e2e.editor import Editor
from tests.e2e.prelabelled import Prelabelled, prelabelled
from tests.e2e.serving import MadeProject, Trajseg
from tests.e2e.studio import LabelStudio
from trajseg.tracks import Result

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
TYPED = "the blue square"


@pytest.fixture(scope="module")
def shapes(typing_project: MadeProject, studio: LabelStudio, trajseg: Trajseg) -> Prelabelled:
    """The task with the prediction for its own instruction."""
    studio.retrieve_predictions(typing_project.id, typing_project.tasks)
    return prelabelled(studio, trajseg, typing_project, 0)


@pytest.fixture(scope="module")
def suggested(
    shapes: Prelabelled, typing_project: MadeProject, studio: LabelStudio, trajseg: Trajseg, editor: Editor
) -> tuple[Result, list[dict[str, Any]]]:
    """The store's tracks for the typed instruction and the page's suggestions, ready to be accepted."""
    editor.open_task(typing_project.id, shapes.id, regions=len(shapes.masks()))
    editor.give_instruction(TYPED)
    suggestions = editor.wait_for_suggestions()
    editor.screenshot("typed-suggestions")
    job = trajseg.job_of(shapes.id, TYPED)
    return trajseg.result(job["id"]), suggestions


def test_suggestions_stand_on_the_pictures_that_show_the_object(
    shapes: Prelabelled, suggested: tuple[Result, list[dict[str, Any]]]
) -> None:
    result, suggestions = suggested
    expected = {
        position
        for position, index in enumerate(shapes.frame_index)
        if any(track.frames[index].rle is not None for track in result.tracks)
    }
    assert {suggestion["frame"] for suggestion in suggestions} == expected


def test_the_new_object_does_not_take_the_label_of_one_that_is_there(
    shapes: Prelabelled, suggested: tuple[Result, list[dict[str, Any]]]
) -> None:
    """A label is one object: two objects under one label would be merged on reading."""
    _, suggestions = suggested
    assert not {label for suggestion in suggestions for label in suggestion["labels"]} & set(shapes.labels)


def test_accepted_and_submitted_suggestions_come_back_pixel_exact(
    shapes: Prelabelled, suggested: tuple[Result, list[dict[str, Any]]], editor: Editor, studio: LabelStudio
) -> None:
    result, suggestions = suggested
    editor.accept_suggestions()
    editor.screenshot("typed-accepted")
    editor.submit()
    [annotation] = studio.annotations(shapes.id)
    back = from_annotation(annotation, shapes.config, shapes.frame_index)
    new = {label for suggestion in suggestions for label in suggestion["labels"]}
    expected = shapes.masks() | {
        (label, index): track.mask(index)
        for label, track in zip(sorted(new), result.tracks, strict=True)
        for index in shapes.frame_index
        if track.frames[index].rle is not None
    }
    assert back.masks.keys() == expected.keys()
    for place, mask in expected.items():
        assert np.array_equal(back.masks[place], mask), place
    assert back.instruction == TYPED


def test_exported_text_has_the_accepted_tracks_captions_and_nothing_that_only_a_model_understands(
    shapes: Prelabelled,
    suggested: tuple[Result, list[dict[str, Any]]],
    typing_project: MadeProject,
    studio: LabelStudio,
    trajseg: Trajseg,
) -> None:
    """In Label Studio's own export, and in every format of ours."""
    _, suggestions = suggested
    [label] = {label for suggestion in suggestions for label in suggestion["labels"]}
    [exported] = studio.call("GET", f"/api/projects/{typing_project.id}/export", params={"exportType": "JSON"})
    results = exported["annotations"][0]["result"]
    texts = {
        item["meta"]["text"][0]
        for item in results
        if item["type"] == "bitmasklabels" and item["value"]["bitmasklabels"] == [label]
    }
    assert texts
    assert {text.partition(": ")[2] for text in texts} == {"something blue"}
    assert {text.partition(":")[0] for text in texts} == {
        f"Frame {shapes.frame_index[suggestion['frame']] + 1}" for suggestion in suggestions
    }
    formats = trajseg.exported(typing_project.id)
    assert "something blue" in formats["trajseg"]
    assert TYPED in formats["mevis"]
    for name, text in {"label studio": json.dumps(results), **formats}.items():
        assert "[SEG]" not in text, name
        assert "no such object" not in text, name


def test_submitting_does_not_make_further_jobs(
    shapes: Prelabelled, suggested: tuple[Result, list[dict[str, Any]]], trajseg: Trajseg
) -> None:
    """Label Studio sends three requests with an empty context after each submit."""
    assert {job["instruction"] for job in trajseg.jobs(shapes.id)} == {shapes.result.instruction, TYPED}


def test_an_answered_sentence_is_not_delivered_again(
    shapes: Prelabelled, suggested: tuple[Result, list[dict[str, Any]]], studio: LabelStudio
) -> None:
    assert [prediction["id"] for prediction in studio.predictions(shapes.id)] == [shapes.prediction["id"]]
