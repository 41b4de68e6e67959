"""A smart rectangle on the page becomes a refine job for the track under it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from backend.label_studio import png
from backend.label_studio.incoming.payloads import Context, Task
from backend.service import marks
from backend.settings import Settings
from backend.store import Job, Store
from label_config import fill, parse
from trajseg.errors import TaskError
from trajseg.tracks import MaskTrack, Result

CONFIG = parse(fill("mask", ["track-1", "track-2"]))
Body = Callable[..., dict[str, Any]]


def rectangle(x: float, y: float, width: float, height: float, picture: int = 1) -> dict[str, Any]:
    """In the page's format (recorded in 23): percent of a picture of 32 x 24 pixels."""
    return {
        "original_width": 32,
        "original_height": 24,
        "image_rotation": 0,
        "item_index": picture,
        "value": {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": ["hint"]},
        "id": "OVY-ZSef4F",
        "from_name": "hint",
        "to_name": "image",
        "type": "rectanglelabels",
        "origin": "manual",
    }


def found(*drawn: dict[str, Any], **data: Any) -> list[dict[str, Any]]:
    task = Task(id=1, data={"frame_index": [0, 2], **data})
    return marks.drawn(Context.model_validate({"result": list(drawn)}), CONFIG, task)


def test_a_rectangle_is_in_pixels_of_the_frame_that_its_picture_shows() -> None:
    (hint,) = found(rectangle(25, 50, 50, 25))
    assert (hint["index"], hint["box"], hint["point"]) == (2, [8.0, 12.0, 16.0, 6.0], False)


def test_a_rectangle_of_the_size_of_a_click_is_a_point() -> None:
    (hint,) = found(rectangle(25, 50, 3, 4))
    assert hint["point"] is True


def test_a_rectangle_on_a_picture_of_no_known_frame_is_left_out() -> None:
    assert found(rectangle(25, 50, 50, 25, picture=7)) == []
    assert found(rectangle(25, 50, 50, 25), frame_index=None) == []


@pytest.mark.parametrize(
    ("box", "index", "label"),
    [
        ([4.0, 4.0, 8.0, 8.0], 1, "track-1"),  # on the track
        ([20.0, 14.0, 6.0, 6.0], 1, "track-2"),  # beside it: a new object
        ([20.0, 14.0, 6.0, 6.0], 3, "track-1"),  # where the only track is lost
    ],
)
def test_a_hint_is_about_the_track_under_it_the_one_that_is_lost_or_a_new_one(
    box: list[float], index: int, label: str, result: Result
) -> None:
    hint = {"index": index, "box": box, "point": False, "named": "", "negative": False}
    (told,) = marks.with_labels([hint], result, CONFIG, Task(id=1, data={}))
    assert told["label"] == label


def test_without_a_free_label_a_new_object_is_refused_with_what_to_do(result: Result) -> None:
    other = MaskTrack.from_masks("t2", [None] * 4, (0.0, 0.1, 0.2, 0.3), [0.0] * 4, label="track-2")
    result.tracks.append(other)
    hint = {"index": 0, "box": [20.0, 14.0, 6.0, 6.0], "point": False, "named": "", "negative": False}
    with pytest.raises(TaskError, match="labels of the project are in use") as caught:
        marks.with_labels([hint], result, CONFIG, Task(id=1, data={}))
    assert "track-9" in caught.value.remedy


def key_point(x: float, y: float, label: str = "point") -> dict[str, Any]:
    """In the page's format: percent of a picture of 32 x 24 pixels; `width` is the size of the dot."""
    value = {"x": x, "y": y, "width": 1.5, "keypointlabels": [label]}
    return {**rectangle(0, 0, 0, 0), "value": value, "from_name": "point", "type": "keypointlabels"}


def test_a_key_point_is_a_click_on_its_pixel() -> None:
    (mark,) = found(key_point(50, 25))
    assert mark["point"] is True
    x, y, width, height = mark["box"]
    assert (x + width / 2, y + height / 2) == (16.0, 6.0)
    assert (mark["index"], mark["negative"]) == (2, False)


def test_a_negative_mark_belongs_to_the_track_that_it_takes_most_from_or_to_none(result: Result) -> None:
    def labelled(drawn: dict[str, Any]) -> list[dict[str, Any]]:
        [mark] = marks.drawn(
            Context.model_validate({"result": [drawn]}), CONFIG, Task(id=1, data={"frame_index": [0, 1]})
        )
        assert mark["negative"]
        return marks.with_labels([mark], result, CONFIG, Task(id=1, data={}))

    over = rectangle(10, 10, 30, 30)
    over["value"]["rectanglelabels"] = ["not this"]
    assert [(one["label"], one["negative"]) for one in labelled(over)] == [("track-1", True)]
    assert [one["label"] for one in labelled(key_point(25, 30, "not here"))] == ["track-1"]
    assert labelled(key_point(90, 90, "not here")) == [], "nothing is there"


@pytest.fixture
def base(store: Store, result: Result) -> Job:
    """A done prelabel job of task 1."""
    project = store.projects.upsert(7, "", fill("mask"), stamp="1795422572")
    job, _ = store.jobs.add("prelabel", project.id, 1, "/data/upload/7/clip.mp4", "the red square", "prelabel")
    store.runs.finish(job.id, store.runs.start(job.id) or "", result)
    return job


@pytest.fixture
def body(predict_body: Body, base: Job, result: Result) -> dict[str, Any]:
    """A hint on task 1, whose page shows the prediction of that job on frames 0 to 3."""
    body = predict_body(1, frames=["a", "b", "c", "d"], frame_index=[0, 1, 2, 3])
    body["params"]["context"] = {"result": [rectangle(12, 16, 26, 34)]}
    region = {
        "from_name": "mask",
        "item_index": 1,
        "meta": {"job_id": base.id, "track_uid": "t1"},
        "value": {"imageDataURL": png.to_url(result.tracks[0].mask(1)), "bitmasklabels": ["track-1"]},
    }
    body["tasks"][0]["predictions"] = [{"id": 5, "model_version": "trajseg-tiny", "result": [region]}]
    return body


def test_a_hint_becomes_an_interactive_job_that_starts_from_the_prediction(
    client: FlaskClient, store: Store, settings: Settings, base: Job, body: dict[str, Any]
) -> None:
    settings.interactive_wait_seconds = 0
    answer = client.post("/predict", json=body)
    [told] = answer.get_json()["results"][0]["result"]
    assert (told["from_name"], told["value"]["text"][0][:14]) == ("answer", "Still running:")
    (job,) = store.jobs.newest(state="queued")
    assert (job.kind, job.queue, job.video, job.instruction) == ("refine", "interactive", base.video, "the red square")
    assert job.params["base_job_id"] == base.id
    assert job.params["marks"] == [{"label": "track-1", "index": 1, "box": [3.84, 3.84, 8.32, 8.16], "point": False}]
    client.post("/predict", json=body)
    assert len(store.jobs.newest(state="queued")) == 1
    other = copy.deepcopy(body)
    other["params"]["context"]["result"][0]["value"]["x"] = 60
    client.post("/predict", json=other)
    assert len(store.jobs.newest(state="queued")) == 2


def test_the_answer_has_the_track_where_the_page_shows_nothing_of_it(
    client: FlaskClient, store: Store, settings: Settings, body: dict[str, Any], result: Result
) -> None:
    """A second region of one label would be added to the first; the whole track comes as a prediction."""
    settings.interactive_wait_seconds = 0
    client.post("/predict", json=body)
    (job,) = store.jobs.newest(state="queued")
    store.runs.finish(job.id, store.runs.start(job.id) or "", result)
    answer = client.post("/predict", json=body).get_json()
    places = [item["item_index"] for item in answer["results"][0]["result"]]
    assert places == [0, 2]
    shown = png.from_url(answer["results"][0]["result"][0]["value"]["imageDataURL"])
    assert np.array_equal(shown, result.tracks[0].mask(0))
    delivery = store.deliveries.of_job(job.id)
    assert delivery is not None
    assert delivery.state == "pending"
