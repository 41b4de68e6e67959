"""Annotations become corrections, with or without a webhook, and one job propagates each."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from backend.composition import compose
from backend.engines import OfferedEngines
from backend.http.app import create_app
from backend.label_studio import png
from backend.label_studio.incoming.reading import AnnotationReader
from backend.label_studio.outgoing.delivery import deliver
from backend.queue import JobQueue
from backend.reconcile import Reconciler
from backend.service.service import Service
from backend.store import Job, Store
from backend.store.notes import JobNotes, TrackWarning
from backend.store.standing import Standing
from tests.backend.label_studio.conftest import Bench
from trajseg.tracks import Result, rle
from trajseg.tracks.rle import Rle
from trajseg.tracks.trust import Trust


@pytest.fixture
def task(studio: Any) -> int:
    return studio.add_task(studio.add_project("mask"), video="/data/upload/1/a.mp4", instruction="the red square")


@pytest.fixture
def project(studio: Any, store: Store, task: int) -> int:
    return store.projects.upsert(studio.tasks[task]["project"], studio.url, "", stamp="1").id


@pytest.fixture
def predicted(studio: Any, store: Store, client: Any, settings: Any, task: int, project: int, result: Result) -> Job:
    """A job whose prediction is in the task: one track in frames 0, 1 and 2 of 4."""
    job, _ = store.jobs.add("prelabel", project, task, "v", "the red square", "prelabel", model_version="trajseg-tiny")
    delivery = store.runs.finish(job.id, store.runs.start(job.id) or "", result)
    assert delivery
    assert deliver(store, client, settings, delivery) is None
    return job


@pytest.fixture
def read(store: Store, settings: Any) -> AnnotationReader:
    return AnnotationReader(store, settings)


def prediction(bench: Bench) -> dict[str, Any]:
    (one,) = bench.of_task()
    return one


def painted(bench: Bench, index: int = 1, left: int = 20) -> list[dict[str, Any]]:
    """The prediction's regions as sent back by the page, with one frame repainted."""
    results = copy.deepcopy(prediction(bench)["result"])
    mask = np.zeros((24, 32), bool)
    mask[10:20, left : left + 8] = True
    for item in results:
        item.pop("score", None)
        if item.get("item_index") == index and item["type"] == "bitmasklabels":
            item["value"]["imageDataURL"] = png.to_url(mask)
            item["origin"] = "prediction-changed"
    return results


def told(store: Store, project: int, annotation: int) -> dict[int, str]:
    return {one.frame_index: one.kind for one in store.corrections.of_annotation(project, annotation)}


def webhook(read: AnnotationReader, studio: Any, task: int, annotation: int, action: str) -> Any:
    """Post a notice to a backend whose reader is `read`."""
    backend = compose(read.settings, read.store, JobQueue("redis://127.0.0.1:9/0"))
    service = Service(
        read.settings, read.store, backend.queue, OfferedEngines.from_settings(read.settings), on_notice=read.notice
    )
    app = create_app(replace(backend, service=service))
    body: dict[str, Any] = {"action": action, "project": {"id": studio.tasks[task]["project"]}}
    if action == "ANNOTATIONS_DELETED":
        body["annotations"] = [{"id": annotation}]
    else:
        body["annotation"] = {"id": annotation, "task": task, "result": [{"nonsense": "is not read"}]}
    return app.test_client().post("/webhook", json=body).json


@pytest.mark.parametrize("heard", [True, False])
def test_a_painted_frame_becomes_a_correction_and_a_job(
    bench: Bench, heard: bool, project: int, predicted: Job, read: AnnotationReader
) -> None:
    annotation = bench.studio.annotate(bench.task, painted(bench), prediction(bench)["id"])
    if heard:
        read._swept_at = float("inf")
        answer = webhook(read, bench.studio, bench.task, annotation, "ANNOTATION_CREATED")
        assert answer["result"]["noted"] is True
    (job,) = read()
    assert told(bench.store, project, annotation) == {0: "unchanged", 1: "edited", 2: "unchanged"}
    edited = bench.store.corrections.of_annotation(project, annotation)[1]
    assert (edited.who, edited.model_version, edited.job_id) == ("ada@example.com", "trajseg-tiny", predicted.id)
    assert (edited.track_uid, edited.label, edited.task_id) == ("t1", "track-1", bench.task)
    assert edited.rle
    assert np.argwhere(rle.decode(cast(Rle, edited.rle)))[0].tolist() == [10, 20]
    assert (job.kind, job.queue, job.instruction) == ("refine", "interactive", "the red square")
    assert job.params == {"annotation_id": annotation, "base_job_id": predicted.id}
    assert read() == []


def test_webhook_body_is_not_trusted(bench: Bench, project: int, predicted: Job, read: AnnotationReader) -> None:
    """The content of an unsigned request about an annotation is not trusted."""
    webhook(read, bench.studio, bench.task, 4711, "ANNOTATION_CREATED")
    assert read() == []
    assert bench.store.corrections.of_task(project, bench.task) == []
    assert bench.store.unread.due() == []


def test_what_nobody_changed_makes_no_job(bench: Bench, project: int, predicted: Job, read: AnnotationReader) -> None:
    results = copy.deepcopy(prediction(bench)["result"])
    annotation = bench.studio.annotate(bench.task, results, prediction(bench)["id"])
    assert read() == []
    assert set(told(bench.store, project, annotation).values()) == {"unchanged"}


def test_the_same_state_read_twice_changes_nothing(
    bench: Bench, project: int, predicted: Job, read: AnnotationReader
) -> None:
    annotation = bench.studio.annotate(bench.task, painted(bench), prediction(bench)["id"])
    (job,) = read()
    before = [one.id for one in bench.store.corrections.of_task(project, bench.task)]
    webhook(read, bench.studio, bench.task, annotation, "ANNOTATION_UPDATED")
    assert read() == []
    assert [one.id for one in bench.store.corrections.of_task(project, bench.task)] == before
    assert [one.id for one in bench.store.jobs.newest() if one.kind == "refine"] == [job.id]


def test_an_update_supersedes_and_cancels_the_older_job(
    bench: Bench, project: int, predicted: Job, read: AnnotationReader
) -> None:
    annotation = bench.studio.annotate(bench.task, painted(bench), prediction(bench)["id"])
    (older,) = read()
    bench.studio.reannotate(bench.task, annotation, painted(bench, index=2))
    webhook(read, bench.studio, bench.task, annotation, "ANNOTATION_UPDATED")
    (newer,) = read()
    assert told(bench.store, project, annotation) == {0: "unchanged", 1: "unchanged", 2: "edited"}
    assert bench.store.jobs.get(older.id).state == "cancelled"
    assert newer.id != older.id
    # Back to the earlier state: the job that was cancelled is needed again.
    bench.studio.reannotate(bench.task, annotation, painted(bench))
    webhook(read, bench.studio, bench.task, annotation, "ANNOTATION_UPDATED")
    assert [job.id for job in read()] == [older.id]
    assert bench.store.jobs.get(older.id).state == "queued"


def test_submitting_the_same_again_makes_no_second_job(
    bench: Bench, project: int, predicted: Job, read: AnnotationReader
) -> None:
    annotation = bench.studio.annotate(bench.task, painted(bench), prediction(bench)["id"])
    (job,) = read()
    bench.store.runs.start(job.id)
    bench.studio.reannotate(bench.task, annotation, painted(bench))
    webhook(read, bench.studio, bench.task, annotation, "ANNOTATION_UPDATED")
    assert read() == []
    assert [(one.id, one.state) for one in bench.store.jobs.newest() if one.kind == "refine"] == [(job.id, "running")]


@pytest.mark.parametrize("heard", [True, False])
def test_deleting_an_annotation_withdraws_its_corrections(
    bench: Bench, heard: bool, project: int, predicted: Job, read: AnnotationReader
) -> None:
    annotation = bench.studio.annotate(bench.task, painted(bench), prediction(bench)["id"])
    (job,) = read()
    bench.studio.reannotate(bench.task, annotation, None)
    if heard:
        webhook(read, bench.studio, bench.task, annotation, "ANNOTATIONS_DELETED")
    else:
        read._swept_at = None
    assert read() == []
    assert bench.store.corrections.of_task(project, bench.task) == []
    assert bench.store.corrections.count() == {}
    assert bench.store.jobs.get(job.id).state == "cancelled"


@pytest.mark.parametrize("rounds", [1, 2])
def test_what_a_withdrawn_correction_made_is_withdrawn(
    bench: Bench, rounds: int, project: int, predicted: Job, read: AnnotationReader, result: Result
) -> None:
    """All was erased by mistake: after deleting the annotation, the next person starts from the prelabel again."""
    first = prediction(bench)["id"]
    sent = painted(bench), painted(bench, left=4)
    annotation = bench.studio.annotate(bench.task, sent[0], first)
    (job,) = read()
    if rounds == 2:
        # The same annotation was corrected before; that refined prediction exists, too.
        smaller = copy.deepcopy(result)
        smaller.tracks[0].frames[0].rle = None
        delivery = bench.store.runs.finish(job.id, bench.store.runs.start(job.id) or "", smaller)
        assert delivery
        assert bench.deliver(delivery)
        bench.studio.reannotate(bench.task, annotation, sent[1])
        read._swept_at = None
        (job,) = read()
    erased = copy.deepcopy(result)
    for frame in erased.tracks[0].frames:
        frame.rle = None
    notes = JobNotes(warnings=(TrackWarning(text="nothing was found: no frame has a mask."),))
    delivery = bench.store.runs.finish(job.id, bench.store.runs.start(job.id) or "", erased, notes)
    assert delivery
    assert bench.deliver(delivery)
    assert bench.data()["trajseg_state"] == "found nothing"
    assert bench.of_task()[0]["model_version"] == "trajseg-tiny (prelabel, earlier)"
    assert [one["model_version"] for one in bench.of_task()].count("trajseg-tiny") == 1
    bench.studio.reannotate(bench.task, annotation, None)
    read._swept_at = None
    assert read() == []
    standing = {one["id"]: one["model_version"] for one in bench.of_task()}
    assert standing.pop(first) == "trajseg-tiny"
    assert list(standing.values()) == ["trajseg-tiny (refined, earlier)"] * rounds
    data = bench.data()
    assert (data["trajseg_state"], data["trajseg_open"]) == ("prelabelled", f"#{first} (prelabel)")
    assert data["trajseg_warnings"] == "", "the warning was of the refined track"


def test_a_skipped_task_says_nothing_on_its_tracks(
    bench: Bench, project: int, predicted: Job, read: AnnotationReader
) -> None:
    bench.studio.annotate(bench.task, painted(bench), prediction(bench)["id"], was_cancelled=True)
    assert read() == []
    assert bench.store.corrections.of_task(project, bench.task) == []


def test_a_track_that_a_person_drew_is_added(
    bench: Bench, project: int, predicted: Job, read: AnnotationReader
) -> None:
    results = copy.deepcopy(prediction(bench)["result"])
    drawn = copy.deepcopy(results[0])
    drawn.update(id="new", origin="manual", item_index=3)
    del drawn["meta"]
    drawn["value"]["bitmasklabels"] = ["track-2"]
    annotation = bench.studio.annotate(bench.task, [*results, drawn], prediction(bench)["id"])
    assert len(read()) == 1
    tracks = {track.label: track for track in bench.store.corrections.painted(project, annotation)}
    assert not tracks["track-1"].vouched
    assert (tracks["track-2"].job_id, tracks["track-2"].track_uid) == (None, "drawn-track-2")
    assert tracks["track-2"].masks.keys() == {3}


def test_a_correction_of_a_refined_track_builds_on_the_first_one(
    bench: Bench, project: int, predicted: Job, read: AnnotationReader, result: Result
) -> None:
    """Earlier painted frames are not painted again, and must not be lost."""
    first = bench.studio.annotate(bench.task, painted(bench, index=1), prediction(bench)["id"])
    (refined,) = read()
    bench.store.runs.finish(refined.id, bench.store.runs.start(refined.id) or "", result)
    regions = painted(bench, index=2, left=0)
    for region in regions:
        region["meta"]["job_id"] = refined.id
    second = bench.studio.annotate(bench.task, regions, prediction(bench)["id"])
    read._swept_at = None
    bench.studio.predictions[prediction(bench)["id"]]["result"] = [
        {**item, "meta": {**item["meta"], "job_id": refined.id}} for item in prediction(bench)["result"]
    ]
    assert len(read()) == 1
    (track,) = bench.store.corrections.painted(project, second)
    assert track.masks.keys() == {1, 2}
    bench.store.corrections.withdraw(project, first)
    (track,) = bench.store.corrections.painted(project, second)
    assert track.masks.keys() == {2}


def test_an_annotation_that_does_not_fit_its_task_is_kept_with_the_reason(
    bench: Bench, project: int, predicted: Job, read: AnnotationReader
) -> None:
    results = painted(bench)
    results[0]["item_index"] = 99
    annotation = bench.studio.annotate(bench.task, results, prediction(bench)["id"])
    assert read() == []
    (row,) = bench.store.corrections.annotations(project, bench.task)
    assert row.annotation_id == annotation
    assert "picture 100" in row.error
    rejected = bench.store.jobs.get(str(row.refine_job_id))
    assert (rejected.kind, rejected.state) == ("refine", "rejected")
    assert "picture 100" in rejected.error
    assert "frame_index" in rejected.remedy
    results[0]["item_index"] = 0
    bench.studio.reannotate(bench.task, annotation, results)
    read._swept_at = None
    assert len(read()) == 1
    assert bench.store.jobs.get(rejected.id).state == "cancelled", "it says nothing about the annotation as it is now"


def test_label_studio_being_down_postpones_the_reading(
    bench: Bench, project: int, predicted: Job, read: AnnotationReader
) -> None:
    bench.studio.annotate(bench.task, painted(bench), prediction(bench)["id"])
    read._swept_at = float("inf")
    bench.store.unread.add(project, [bench.task])
    bench.studio.failures = 1_000
    assert read() == []
    assert bench.store.unread.due() == []
    bench.studio.failures = 0
    bench.store.unread.add(project, [bench.task])
    assert len(read()) == 1


def test_a_task_that_is_gone_is_forgotten(bench: Bench, project: int, predicted: Job, read: AnnotationReader) -> None:
    bench.studio.annotate(bench.task, painted(bench), prediction(bench)["id"])
    read()
    bench.store.unread.add(project, [bench.task])
    del bench.studio.tasks[bench.task]
    assert read() == []
    assert bench.store.corrections.of_task(project, bench.task) == []
    assert bench.store.unread.due() == []


def test_notice_wakes_the_reconciler(bench: Bench, project: int, predicted: Job) -> None:
    """After a submission, reading starts without waiting for the next round."""
    bench.settings.reconcile_seconds = bench.settings.annotation_sweep_seconds = 60
    backend = compose(bench.settings, bench.store, JobQueue("redis://127.0.0.1:9/0"))
    body = {"action": "ANNOTATION_CREATED", "project": {"id": bench.studio.tasks[bench.task]["project"]}}
    backend.reconciler.start()
    try:
        time.sleep(0.3)
        # After its first round: the sweep is done, and the next one is a minute away.
        fresh = bench.studio.annotate(bench.task, painted(bench, left=12), prediction(bench)["id"])
        body["annotation"] = {"id": fresh, "task": bench.task}
        create_app(backend).test_client().post("/webhook", json=body)
        for _ in range(100):
            if bench.store.corrections.of_annotation(project, fresh):
                break
            time.sleep(0.05)
    finally:
        backend.reconciler.stop()
    assert bench.store.corrections.of_annotation(project, fresh)


def wait_for(probe: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not probe():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_queue_that_is_down_keeps_the_job_for_later(
    bench: Bench, project: int, predicted: Job, read: AnnotationReader
) -> None:
    bench.studio.annotate(bench.task, painted(bench), prediction(bench)["id"])
    reconciler = Reconciler(bench.store, JobQueue("redis://127.0.0.1:9/0"), bench.settings, read=read)
    reconciler.start()
    wait_for(lambda: bench.store.jobs.newest(state="queued"))
    reconciler.stop()
    assert [job.state for job in bench.store.jobs.newest() if job.kind == "refine"] == ["queued"]


def write(results: list[dict[str, Any]], *lines: str) -> list[dict[str, Any]]:
    """The same regions with these lines in the captions' text area."""
    for item in results:
        if item["from_name"] == "caption":
            item["value"]["text"] = list(lines)
    return results


def captions_of(store: Store, project: int, task: int) -> dict[str, str]:
    (row,) = store.corrections.annotations(project, task)
    return row.captions


def test_a_caption_that_a_person_rewrote_is_kept_and_makes_no_job(
    bench: Bench, project: int, predicted: Job, read: AnnotationReader
) -> None:
    results = copy.deepcopy(prediction(bench)["result"])
    shown = [item for item in results if item["from_name"] == "caption"]
    assert shown[0]["value"]["text"] == ["track-1: a red square"]
    bench.studio.annotate(bench.task, write(results, "track-1: a red tile", "Warning: odd."), prediction(bench)["id"])
    assert read() == []
    assert captions_of(bench.store, project, bench.task) == {"track-1": "a red tile"}


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        (["track-1: a red square"], {}),
        (["track-1: a red square", "Warning: you asked for something still."], {}),
        (["track-1: a red square", "track-1: a tile"], {"track-1": "a tile"}),
        (["a tile"], {"track-1": "a tile"}),
        ([], {"track-1": ""}),
    ],
)
def test_what_counts_as_a_changed_caption(
    bench: Bench, lines: list[str], kept: dict[str, str], project: int, predicted: Job, read: AnnotationReader
) -> None:
    results = write(copy.deepcopy(prediction(bench)["result"]), *lines)
    bench.studio.annotate(bench.task, results, prediction(bench)["id"])
    read()
    assert captions_of(bench.store, project, bench.task) == kept


def test_captions_of_a_deleted_prediction_are_not_taken_for_a_persons(
    bench: Bench, project: int, predicted: Job, read: AnnotationReader
) -> None:
    results = copy.deepcopy(prediction(bench)["result"])
    bench.studio.predictions.clear()
    bench.studio.annotate(bench.task, results, None)
    read()
    assert captions_of(bench.store, project, bench.task) == {}


def test_no_object_submitted_unchanged_is_an_answer(
    bench: Bench, project: int, read: AnnotationReader, result: Result
) -> None:
    job, _ = bench.store.jobs.add(
        "prelabel", project, bench.task, "v", "the red square", "prelabel", model_version="trajseg-tiny"
    )
    delivery = bench.store.runs.finish(job.id, bench.store.runs.start(job.id) or "", replace(result, tracks=[]))
    assert delivery
    assert bench.deliver(delivery)
    bench.studio.annotate(
        bench.task,
        copy.deepcopy(prediction(bench)["result"]),
        prediction(bench)["id"],
    )
    assert read() == []
    standing = Standing(bench.store).task(project, bench.task)
    assert standing
    assert standing.annotation_id is not None
    assert [(said.uids, said.trust) for said in standing.expressions] == [((), Trust.ACCEPTED)]


MASK = png.to_url(np.ones((24, 32), bool))


def region(**changed: Any) -> dict[str, Any]:
    value = {"imageDataURL": MASK, "bitmasklabels": ["track-1"], **changed.pop("value", {})}
    return {
        "id": "r",
        "from_name": "mask",
        "to_name": "image",
        "type": "bitmasklabels",
        "item_index": 0,
        "value": value,
        **changed,
    }


ODD: dict[str, Any] = {
    "not an object": "region",
    "picture that is none": region(item_index="last"),
    "picture beyond all": region(item_index=10**30),
    "picture before the first": region(item_index=-1),
    "list for a value": region() | {"value": [1]},
    "text for labels": region(value={"bitmasklabels": "track-1"}),
    "objects for labels": region(value={"bitmasklabels": [{"a": 1}]}),
    "endless label": region(value={"bitmasklabels": ["x" * 500]}),
    "list for a picture": region(value={"imageDataURL": [MASK]}),
    "brush code of text": region(value={"rle": "gigabytes"}) | {"original_width": 32, "original_height": 24},
    "negative brush code": region(value={"rle": [-1, 300]}) | {"original_width": 32, "original_height": 24},
    "numbers for a caption": {"from_name": "caption", "type": "textarea", "value": {"text": [1, None]}},
}


@pytest.mark.parametrize("name", list(ODD))
def test_an_annotation_that_cannot_be_read_says_why_and_blocks_no_other_of_its_task(
    bench: Bench, name: str, project: int, predicted: Job, read: AnnotationReader
) -> None:
    broken = bench.studio.annotate(bench.task, [ODD[name]])
    other = bench.studio.annotate(bench.task, painted(bench), prediction(bench)["id"])
    assert [job.params["annotation_id"] for job in read()] == [other]
    rows = {row.annotation_id: row.error for row in bench.store.corrections.annotations(project, bench.task)}
    assert rows[other] == ""
    assert rows[broken], name
    assert bench.store.unread.due() == []


@pytest.mark.parametrize("indices", [[-5, 0, 1, 2], [10**30, 0, 1, 2], ["0", 1, 2, 3], [True, 1, 2, 3], [None]])
def test_pictures_of_no_frame_make_no_corrections(
    bench: Bench, indices: list[Any], project: int, predicted: Job, read: AnnotationReader
) -> None:
    results = painted(bench)
    bench.studio.tasks[bench.task]["data"]["frame_index"] = indices
    annotation = bench.studio.annotate(bench.task, results, prediction(bench)["id"])
    assert read() == []
    (row,) = bench.store.corrections.annotations(project, bench.task)
    assert row.annotation_id == annotation
    assert "frame_index" in row.error


def test_half_an_emoji_a_nul_and_a_forged_origin_in_an_annotation_are_stored(
    bench: Bench, project: int, predicted: Job, read: AnnotationReader
) -> None:
    forged = {"job_id": "j" * 90, "track_uid": "u" * 900}
    odd = region(value={"bitmasklabels": ["track-9 \ud83d\0"]}) | {"meta": forged}
    annotation = bench.studio.annotate(bench.task, [odd], lead_time=1e308)
    (job,) = read()
    (row,) = bench.store.corrections.of_annotation(project, annotation)
    assert (row.kind, row.job_id, job.kind) == ("added", None, "refine")
    assert row.label.startswith("track-9 ")


def test_an_annotation_copied_to_a_task_with_another_video_brings_no_tracks_of_the_first_along(
    bench: Bench, project: int, predicted: Job, read: AnnotationReader
) -> None:
    data = bench.studio.tasks[bench.task]["data"]
    other = bench.studio.add_task(bench.studio.tasks[bench.task]["project"], **data | {"video": "/data/upload/1/b.mp4"})
    annotation = bench.studio.annotate(other, painted(bench))
    (job,) = read()
    assert (job.task_id, job.video, job.asked.earlier_job_id) == (other, "/data/upload/1/b.mp4", None)
    assert set(told(bench.store, project, annotation).values()) == {"added"}


def test_an_annotation_in_a_copy_of_its_project_is_compared_with_the_tracks_it_came_from(
    bench: Bench, project: int, predicted: Job, read: AnnotationReader
) -> None:
    data = bench.studio.tasks[bench.task]["data"] | {"video": predicted.video}
    copied = bench.studio.add_task(bench.studio.tasks[bench.task]["project"], **data)
    annotation = bench.studio.annotate(copied, painted(bench))
    (job,) = read()
    assert (job.task_id, job.asked.earlier_job_id) == (copied, predicted.id)
    assert told(bench.store, project, annotation) == {0: "unchanged", 1: "edited", 2: "unchanged"}
