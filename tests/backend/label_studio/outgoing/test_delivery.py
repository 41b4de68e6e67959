"""A result reaches Label Studio exactly once, despite retries and crashes."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from backend.label_studio.client import LabelStudioClient
from backend.label_studio.outgoing import delivery as delivery_module
from backend.label_studio.outgoing import views
from backend.label_studio.outgoing.courier import Courier
from backend.settings import Settings
from backend.store import Delivery, Job, Store
from backend.store.models import now
from label_config import parse
from tests.backend.label_studio.conftest import Bench, FakeLabelStudio
from trajseg.tracks import Result

MakeDelivered = Callable[..., tuple[Job, Delivery]]


def deliver(*parts: Any) -> bool:
    """Whether a delivery arrives."""
    return delivery_module.deliver(*parts) is None


@pytest.fixture
def delivered_to(studio: FakeLabelStudio, store: Store, result: Result) -> MakeDelivered:
    """Makes a project, a task and a done job for it; returns the job and its delivery."""

    def make(task: int, instruction: str = "the red square", shown: Result = result) -> tuple[Job, Delivery]:
        project = store.projects.upsert(studio.tasks[task]["project"], studio.url, "", stamp="1")
        job, _ = store.jobs.add(
            "prelabel", project.id, task, "v", instruction, "prelabel", model_version="trajseg-tiny"
        )
        token = store.runs.start(job.id)
        assert token
        shown = copy.deepcopy(shown)
        shown.instruction = instruction
        delivery = store.runs.finish(job.id, token, shown)
        assert delivery
        return job, delivery

    return make


@pytest.fixture
def task(studio: Any) -> int:
    project = studio.add_project("mask")
    return studio.add_task(project, video="/data/upload/1/a.mp4", instruction="the red square", mine="kept")


def state(store: Store, job: Job) -> Delivery:
    delivery = store.deliveries.of_job(job.id)
    assert delivery
    return delivery


def test_the_task_gets_pictures_and_frame_rate_and_keeps_the_rest(bench: Bench, delivered_to: MakeDelivered) -> None:
    _, delivery = delivered_to(bench.task)
    assert bench.deliver(delivery)
    data = bench.data()
    assert data["video"] == "/data/upload/1/a.mp4"
    assert data["mine"] == "kept"
    assert data["fps"] == 10.0
    assert data["frame_index"] == [0, 1, 2, 3]
    assert len(data["frames"]) == 4
    assert all(url.startswith(f"{bench.settings.external_url}/media/") for url in data["frames"])
    assert data["frames"][2].endswith("/000002.jpg")


def test_the_prediction_says_what_the_result_says(bench: Bench, delivered_to: MakeDelivered, result: Result) -> None:
    job, delivery = delivered_to(bench.task)
    bench.deliver(delivery)
    (prediction,) = bench.of_task()
    assert prediction["model_version"] == "trajseg-tiny"
    assert prediction["score"] == pytest.approx(views.score(result))
    assert state(bench.store, job).state == "sent"
    assert state(bench.store, job).prediction_id == prediction["id"]
    config = parse(bench.studio.projects[bench.studio.tasks[bench.task]["project"]]["label_config"])
    said = views.from_annotation(prediction, config, bench.data()["frame_index"])
    assert {place: mask.tolist() for place, mask in said.masks.items()} == {
        ("track-1", index): result.tracks[0].mask(index).tolist() for index in (0, 1, 2)
    }
    assert said.captions == {"track-1": "a red square"}
    assert all(item["meta"]["job_id"] == job.id for item in prediction["result"])


def test_reading_a_task_does_not_make_label_studio_ask_for_a_prediction(
    bench: Bench, delivered_to: MakeDelivered
) -> None:
    _, delivery = delivered_to(bench.task)
    bench.deliver(delivery)
    assert ("GET", f"/api/tasks/{bench.task}") not in bench.studio.requests


def test_delivering_again_posts_nothing_new(bench: Bench, delivered_to: MakeDelivered) -> None:
    job, delivery = delivered_to(bench.task)
    bench.deliver(delivery)
    bench.store.deliveries.send_again(job.id)
    assert bench.deliver(state(bench.store, job))
    assert len(bench.of_task()) == 1


def test_a_worker_that_died_between_posting_and_marking_is_made_good(bench: Bench, delivered_to: MakeDelivered) -> None:
    job, delivery = delivered_to(bench.task)
    bench.studio.lose_answer = True
    assert not bench.deliver(delivery)
    assert state(bench.store, job).state == "pending"
    bench.studio.lose_answer = False
    assert bench.deliver(state(bench.store, job))
    assert [one["id"] for one in bench.of_task()] == [state(bench.store, job).prediction_id]


def test_two_workers_that_deliver_at_the_same_moment_leave_one_prediction(
    bench: Bench, delivered_to: MakeDelivered
) -> None:
    job, delivery = delivered_to(bench.task)
    bench.studio.slow_posts = threading.Barrier(2)

    def send() -> None:
        client = delivery_module.connected(bench.settings)
        deliver(bench.store, client, bench.settings, delivery)
        client.close()

    both = [threading.Thread(target=send) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert len([one for one in bench.studio.requests if one == ("POST", "/api/predictions")]) == 2
    assert [one["id"] for one in bench.of_task()] == [state(bench.store, job).prediction_id]


def test_label_studio_being_down_leaves_it_pending_with_the_reason(bench: Bench, delivered_to: MakeDelivered) -> None:
    job, _ = delivered_to(bench.task)
    bench.studio.stop()
    client = LabelStudioClient(bench.studio.url, "0" * 40, attempts=2, wait=0.01)
    for _ in range(bench.settings.delivery_attempts + 2):
        assert not deliver(bench.store, client, bench.settings, state(bench.store, job))
    waiting = state(bench.store, job)
    assert waiting.state == "pending"
    assert "does not answer" in waiting.last_error
    assert now() < waiting.next_attempt_at < now() + timedelta(minutes=16)


def test_the_pause_between_tries_grows(bench: Bench, delivered_to: MakeDelivered) -> None:
    job, _ = delivered_to(bench.task)
    pauses = []
    for _ in range(4):
        bench.studio.failures = 100
        bench.deliver(state(bench.store, job))
        pauses.append((state(bench.store, job).next_attempt_at - now()).total_seconds())
    assert pauses == pytest.approx([15, 30, 60, 120], abs=2)


def test_a_short_illness_of_label_studio_is_waited_out(bench: Bench, delivered_to: MakeDelivered) -> None:
    _, delivery = delivered_to(bench.task)
    bench.studio.failures = 2
    assert bench.deliver(delivery)


def test_a_delivery_to_a_deleted_task_is_dropped_without_a_failure(bench: Bench, delivered_to: MakeDelivered) -> None:
    job, delivery = delivered_to(bench.task)
    del bench.studio.tasks[bench.task]
    assert bench.deliver(delivery)
    assert state(bench.store, job).state == "dropped"
    assert f"no task {bench.task}" in state(bench.store, job).last_error
    assert bench.studio.predictions == {}


def test_a_delivery_to_a_deleted_project_is_dropped(bench: Bench, delivered_to: MakeDelivered) -> None:
    job, delivery = delivered_to(bench.task)
    del bench.studio.projects[bench.studio.tasks[bench.task]["project"]]
    assert bench.deliver(delivery)
    assert state(bench.store, job).state == "dropped"


def test_a_refused_token_keeps_deliveries_waiting_until_it_is_renewed(
    bench: Bench, delivered_to: MakeDelivered
) -> None:
    job, _ = delivered_to(bench.task)
    bench.studio.legacy_tokens = False
    for _ in range(bench.settings.delivery_attempts + 1):
        assert not bench.deliver(state(bench.store, job))
    assert state(bench.store, job).state == "pending"
    assert "personal access token" in state(bench.store, job).last_error


def test_without_a_token_it_waits_and_says_so(bench: Bench, delivered_to: MakeDelivered) -> None:
    job, delivery = delivered_to(bench.task)
    bare = bench.settings.model_copy(update={"label_studio_api_key": type(bench.settings.label_studio_api_key)("")})
    assert not Courier(bench.store, bare).deliver(delivery)
    assert state(bench.store, job).state == "pending"
    assert "LABEL_STUDIO_API_KEY" in state(bench.store, job).last_error


def test_a_configuration_without_a_usable_tag_fails_it_with_the_reason(
    bench: Bench, delivered_to: MakeDelivered
) -> None:
    job, delivery = delivered_to(bench.task)
    project = bench.studio.projects[bench.studio.tasks[bench.task]["project"]]
    project["label_config"] = '<View><Video name="v" value="$video"/></View>'
    assert not bench.deliver(delivery)
    assert state(bench.store, job).state == "failed"
    assert "BitmaskLabels" in state(bench.store, job).last_error


def test_more_tracks_than_labels_add_labels_to_the_project(
    studio: FakeLabelStudio,
    store: Store,
    client: LabelStudioClient,
    settings: Settings,
    delivered_to: MakeDelivered,
    result: Result,
) -> None:
    project = studio.add_project("mask", ["car", "track-2"])
    task = studio.add_task(project, video="v", instruction="all")
    many = copy.deepcopy(result)
    many.tracks = []
    for number in range(4):
        track = copy.deepcopy(result.tracks[0])
        track.uid = f"t{number}"
        many.tracks.append(track)
    _, delivery = delivered_to(task, "all", many)
    assert deliver(store, client, settings, delivery)
    config = parse(studio.projects[project]["label_config"])
    assert config.labels == ("car", "track-2", "track-1", "track-3")
    said = views.from_annotation(studio.of_task(task)[0], config, studio.tasks[task]["data"]["frame_index"])
    assert {label for label, _ in said.masks} == set(config.labels)


def test_no_such_object_is_a_prediction_that_says_so(bench: Bench, delivered_to: MakeDelivered, result: Result) -> None:
    none = copy.deepcopy(result)
    none.tracks, none.answer = [], "There is no yellow star [SEG] ."
    job, delivery = delivered_to(bench.task, "the yellow star", none)
    assert bench.deliver(delivery)
    bench.store.deliveries.send_again(job.id)
    assert bench.deliver(state(bench.store, job))
    (prediction,) = bench.of_task()
    assert [item["value"]["text"] for item in prediction["result"]] == [
        ["the yellow star"],
        ['Prelabel for "the yellow star" by trajseg-tiny. Nothing found. The model says: "There is no yellow star."'],
    ]


def test_a_newer_run_of_the_same_question_replaces_the_older_prediction(
    bench: Bench, delivered_to: MakeDelivered
) -> None:
    job, delivery = delivered_to(bench.task)
    bench.deliver(delivery)
    bench.store.jobs.retry(job.id)
    job, delivery = delivered_to(bench.task)
    assert bench.deliver(delivery)
    (prediction,) = bench.of_task()
    assert prediction["result"][0]["meta"]["delivery_id"] == delivery.id


def test_another_instruction_keeps_the_older_prediction_and_its_pictures_in_place(
    bench: Bench, delivered_to: MakeDelivered
) -> None:
    _, first = delivered_to(bench.task)
    bench.deliver(first)
    before = list(bench.data()["frames"])
    _, second = delivered_to(bench.task, "the blue one")
    assert bench.deliver(second)
    assert len(bench.of_task()) == 2
    assert bench.data()["frames"][: len(before)] == before


def test_pictures_that_an_annotation_refers_to_stay_where_they_are(
    studio: FakeLabelStudio, store: Store, client: LabelStudioClient, settings: Settings, delivered_to: MakeDelivered
) -> None:
    project = studio.add_project("mask")
    task = studio.add_task(project, video="v", instruction="i", frames=["/f2.jpg", "/f0.jpg"], frame_index=[2, 0])
    studio.tasks[task]["annotations"] = [{"id": 1, "result": [], "parent_prediction": None}]
    _, delivery = delivered_to(task)
    assert deliver(store, client, settings, delivery)
    data = studio.tasks[task]["data"]
    assert data["frame_index"] == [2, 0, 1, 3]
    assert data["frames"][:2] == ["/f2.jpg", "/f0.jpg"]


def test_first_pictures_that_nobody_worked_on_make_room_for_key_frames(
    studio: FakeLabelStudio, store: Store, client: LabelStudioClient, settings: Settings, delivered_to: MakeDelivered
) -> None:
    project = studio.add_project("mask")
    task = studio.add_task(project, video="v", instruction="i", frames=["/f0.jpg", "/f3.jpg"], frame_index=[0, 3])
    _, delivery = delivered_to(task)
    deliver(store, client, settings, delivery)
    assert studio.tasks[task]["data"]["frame_index"] == [0, 1, 2, 3]


def test_the_box_view_gets_a_frame_rate_and_no_pictures(
    studio: FakeLabelStudio, store: Store, client: LabelStudioClient, settings: Settings, delivered_to: MakeDelivered
) -> None:
    project = studio.add_project("box")
    task = studio.add_task(project, video="v", instruction="i")
    _, delivery = delivered_to(task)
    assert deliver(store, client, settings, delivery)
    (prediction,) = studio.of_task(task)
    assert studio.tasks[task]["data"] == {
        "video": "v",
        "instruction": "i",
        "fps": 10.0,
        "trajseg_video": "v",
        "trajseg_state": "prelabelled",
        "trajseg_open": f"#{prediction['id']} (prelabel)",
    }
    assert studio.of_task(task)[0]["result"][0]["type"] == "videorectangle"


@pytest.mark.parametrize(("rate", "warned"), [("25.0", True), ("10", False)])
def test_a_configuration_that_fixes_another_rate_is_warned_of(
    studio: FakeLabelStudio,
    store: Store,
    client: LabelStudioClient,
    settings: Settings,
    delivered_to: MakeDelivered,
    rate: str,
    warned: bool,
) -> None:
    project = studio.add_project("box")
    xml = studio.projects[project]["label_config"].replace('frameRate="$fps"', f'framerate="{rate}"')
    studio.projects[project]["label_config"] = xml
    task = studio.add_task(project, video="v", instruction="i")
    _, delivery = delivered_to(task)
    assert deliver(store, client, settings, delivery)
    assert "fps" not in studio.tasks[task]["data"]
    results = studio.of_task(task)[0]["result"]
    lines = [line for item in results if item["type"] == "textarea" for line in item["value"]["text"]]
    warnings = [line for line in lines if 'frameRate="$fps"' in line]
    assert bool(warnings) == warned
    (value,) = {item["value"]["framesCount"] for item in results if item["type"] == "videorectangle"}
    assert value == round(store.jobs.result(delivery.job_id).frame_count / 10 * float(rate) + 1e-6)
