"""Adoption of refined tracks: what is written, what is never touched, and how the result is read."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backend.label_studio import png
from backend.label_studio.incoming.reading import AnnotationReader
from backend.label_studio.outgoing.adoption import AdoptionError, adopt, adopt_if_wanted, plan, undo
from backend.label_studio.outgoing.delivery import deliver
from backend.store import Job, Store
from trajseg.tracks import Result, rle

LABEL = "track-1"


def square(left: int) -> np.ndarray:
    mask = np.zeros((24, 32), bool)
    mask[10:20, left : left + 6] = True
    return mask


@pytest.fixture
def scene(studio: Any, store: Store, client: Any, settings: Any, result: Result) -> SimpleNamespace:
    """A prediction of one track in frames 0 to 2 of 4, and an annotation in which frame 1 was painted and refined.

    The refined track is elsewhere in frame 0, gone in frame 2, as painted in frame 1, and also in frame 3.
    """
    task = studio.add_task(studio.add_project("mask"), video="/data/upload/1/a.mp4", instruction="the red square")
    project = store.projects.upsert(studio.tasks[task]["project"], studio.url, "", stamp="1").id
    job, _ = store.jobs.add("prelabel", project, task, "v", "the red square", "prelabel", model_version="trajseg-tiny")
    delivery = store.runs.finish(job.id, store.runs.start(job.id) or "", result)
    assert delivery
    assert deliver(store, client, settings, delivery) is None
    [prediction] = studio.of_task(task)
    results = copy.deepcopy(prediction["result"])
    for item in results:
        if item.get("item_index") == 1 and item["type"] == "bitmasklabels":
            item["value"]["imageDataURL"] = png.to_url(square(20))
            item["origin"] = "prediction-changed"
    annotation = studio.annotate(task, results, parent=prediction["id"])
    read = AnnotationReader(store, settings)
    made = SimpleNamespace(
        studio=studio,
        store=store,
        client=client,
        settings=settings,
        task=task,
        project=project,
        annotation=annotation,
        read=lambda: read_now(store, read, project, task),
        result=result,
    )
    [made.job] = made.read()
    made.job = refined(made, made.job, {0: square(4), 1: square(20), 2: None, 3: square(24)})
    return made


def read_now(store: Store, read: AnnotationReader, project: int, task: int) -> list[Job]:
    store.unread.add(project, [task])
    return read()


def refined(scene: Any, job: Job, masks: dict[int, np.ndarray | None]) -> Job:
    """The job done, with these masks."""
    [track] = scene.result.tracks
    codes = {index: None if mask is None else rle.encode(mask) for index, mask in masks.items()}
    frames = [replace(frame, rle=codes[frame.index]) for frame in track.frames]
    result = replace(scene.result, tracks=[replace(track, frames=frames)])
    delivery = scene.store.runs.finish(job.id, scene.store.runs.start(job.id) or "", result)
    assert delivery
    assert deliver(scene.store, scene.client, scene.settings, delivery) is None
    done: Job = scene.store.jobs.get(job.id)
    return done


def stored(scene: Any) -> dict[str, Any]:
    [one] = scene.studio.tasks[scene.task]["annotations"]
    held: dict[str, Any] = one
    return held


def shown(scene: Any) -> dict[int, np.ndarray]:
    """The annotation's masks by picture; the prediction gave each frame one."""
    indices = scene.studio.tasks[scene.task]["data"]["frame_index"]
    return {
        indices[item["item_index"]]: png.from_url(item["value"]["imageDataURL"])
        for item in stored(scene)["result"]
        if item["type"] == "bitmasklabels"
    }


def told(scene: Any) -> dict[int, str]:
    rows = scene.store.corrections.of_annotation(scene.project, scene.annotation)
    return {row.frame_index: row.kind for row in rows}


def test_only_masks_that_nobody_painted_change(scene: Any) -> None:
    before = copy.deepcopy(stored(scene))
    [painted] = [item for item in before["result"] if item.get("origin") == "prediction-changed"]
    adoption = adopt(scene.store, scene.client, scene.job)
    masks = shown(scene)
    assert {index: mask.tolist() for index, mask in masks.items()} == {
        0: square(4).tolist(),
        1: square(20).tolist(),
        3: square(24).tolist(),
    }
    assert painted in stored(scene)["result"], "the very region that a person painted"
    texts = [item for item in before["result"] if item["type"] == "textarea"]
    assert [item for item in stored(scene)["result"] if item["type"] == "textarea"] == texts
    assert [(one["index"], one["kind"]) for one in adoption.changes] == [(0, "changed"), (2, "removed"), (3, "added")]
    assert 0 < adoption.changes[0]["j"] < 1 or adoption.changes[0]["j"] == 0
    assert stored(scene)["parent_prediction"] == before["parent_prediction"]


def test_the_reader_does_not_take_it_for_a_correction(scene: Any) -> None:
    before = told(scene)
    adopt(scene.store, scene.client, scene.job)
    assert scene.read() == []
    # Also if the webhook arrives before the version was recorded.
    scene.store.corrections.seen(scene.project, scene.annotation, "earlier")
    assert scene.read() == []
    assert told(scene) == before


def test_undo_puts_back_what_stood_there(scene: Any) -> None:
    before = copy.deepcopy(stored(scene)["result"])
    adoption = adopt(scene.store, scene.client, scene.job)
    undo(scene.store, scene.client, adoption)
    assert stored(scene)["result"] == before
    assert scene.read() == []
    with pytest.raises(AdoptionError, match="no longer the current"):
        undo(scene.store, scene.client, adoption)
    assert len(adopt(scene.store, scene.client, scene.job).changes) == 3, "it can be adopted again"


def test_a_correction_after_it_counts_alone_and_starts_from_the_refined_tracks(scene: Any) -> None:
    adopt(scene.store, scene.client, scene.job)
    results = copy.deepcopy(stored(scene)["result"])
    indices = scene.studio.tasks[scene.task]["data"]["frame_index"]
    for item in results:
        if item["type"] == "bitmasklabels" and indices[item["item_index"]] == 3:
            item["value"]["imageDataURL"] = png.to_url(square(2))
    scene.studio.reannotate(scene.task, scene.annotation, results)
    [job] = scene.read()
    assert told(scene) == {0: "unchanged", 1: "edited", 3: "edited"}
    assert job.asked.base_job_id == scene.job.id
    [track] = scene.store.corrections.painted(scene.project, scene.annotation)
    assert set(track.masks) == {1, 3}
    with pytest.raises(AdoptionError, match="corrected again"):
        plan(scene.store, scene.client, scene.job)
    newer = refined(scene, job, {0: square(5), 1: square(20), 2: square(9), 3: square(2)})
    adopt(scene.store, scene.client, newer)
    assert shown(scene)[3].tolist() == square(2).tolist()
    assert scene.read() == []


def test_what_was_painted_first_is_not_painted_again(scene: Any) -> None:
    """The row of a painted frame still refers to the job whose prediction was wrong."""
    [row] = [
        one for one in scene.store.corrections.of_annotation(scene.project, scene.annotation) if one.kind == "edited"
    ]
    adopt(scene.store, scene.client, scene.job)
    results = copy.deepcopy(stored(scene)["result"])
    scene.studio.reannotate(scene.task, scene.annotation, [item for item in results if item.get("item_index") != 0])
    scene.read()
    rows = {one.frame_index: one for one in scene.store.corrections.of_annotation(scene.project, scene.annotation)}
    assert (rows[1].job_id, rows[1].track_uid, rows[1].kind) == (row.job_id, row.track_uid, "edited")
    assert rows[0].kind == "removed"
    assert rows[0].job_id == scene.job.id


def test_a_page_that_was_open_meanwhile_writes_back_without_a_correction(scene: Any) -> None:
    before = copy.deepcopy(stored(scene)["result"])
    adopt(scene.store, scene.client, scene.job)
    scene.studio.reannotate(scene.task, scene.annotation, before)
    again = scene.read()
    assert {index: kind for index, kind in told(scene).items() if kind != "unchanged"} == {1: "edited"}
    assert again == [], "nothing new was painted"


def with_a_draft(scene: Any) -> None:
    scene.studio.tasks[scene.task]["drafts"] = [{"id": 1, "annotation": scene.annotation, "user": "bob"}]


def with_a_newer_version(scene: Any) -> None:
    scene.studio.reannotate(scene.task, scene.annotation, stored(scene)["result"][1:])


def without_the_annotation(scene: Any) -> None:
    scene.studio.reannotate(scene.task, scene.annotation, None)


@pytest.mark.parametrize("happens", [with_a_draft, with_a_newer_version, without_the_annotation])
def test_nothing_is_written_over_what_a_person_did_meanwhile(scene: Any, happens: Callable[[Any], None]) -> None:
    happens(scene)
    held = copy.deepcopy(scene.studio.tasks[scene.task]["annotations"])
    with pytest.raises(AdoptionError) as caught:
        adopt(scene.store, scene.client, scene.job)
    assert caught.value.remedy
    assert scene.studio.tasks[scene.task]["annotations"] == held
    assert scene.store.adoptions.of_job(scene.job.id) is None


@pytest.mark.parametrize("happens", [with_a_draft, with_a_newer_version])
def test_nothing_is_undone_over_what_a_person_did_meanwhile(scene: Any, happens: Callable[[Any], None]) -> None:
    adoption = adopt(scene.store, scene.client, scene.job)
    happens(scene)
    held = copy.deepcopy(stored(scene))
    with pytest.raises(AdoptionError):
        undo(scene.store, scene.client, adoption)
    assert stored(scene) == held


def test_a_draft_of_another_annotation_does_not_block(scene: Any) -> None:
    scene.studio.tasks[scene.task]["drafts"] = [{"id": 1, "annotation": None, "user": "bob"}]
    assert adopt(scene.store, scene.client, scene.job).changes


def test_by_setting_it_happens_on_delivery_and_an_undone_one_stays_undone(scene: Any) -> None:
    adopt_if_wanted(scene.store, scene.client, scene.settings, scene.job)
    assert scene.store.adoptions.of_job(scene.job.id) is None, "it is off"
    wanted = scene.settings.model_copy(update={"adopt_refined": True})
    adopt_if_wanted(scene.store, scene.client, wanted, scene.job)
    adoption = scene.store.adoptions.of_job(scene.job.id)
    assert len(adoption.changes) == 3
    undo(scene.store, scene.client, adoption)
    adopt_if_wanted(scene.store, scene.client, wanted, scene.job)
    assert shown(scene).keys() == {0, 1, 2}
