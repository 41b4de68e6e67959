"""Adoption of refined tracks in the box view, and ranges of the timeline that a person has changed."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backend.label_studio.boxes import from_sequence
from backend.label_studio.incoming.reading import AnnotationReader
from backend.label_studio.outgoing.adoption import adopt, plan, undo
from backend.label_studio.outgoing.delivery import deliver
from backend.store import Job, Store
from backend.store.notes import JobNotes, TrackRefinement
from backend.store.standing import Standing
from label_config import fill
from trajseg.tracks import MaskTrack, Result
from trajseg.tracks.trust import Trust

FRAMES, WIDTH, HEIGHT = 12, 32, 24
TIMELINE = '<TimelineLabels name="events" toName="video"><Label value="track-1"/></TimelineLabels></View>'
MOVED = (50.0, 50.0, 25.0, 25.0)
"""Where the person puts the box, in percent."""


def square(left: int, top: int = 10) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + 6, left : left + 6] = True
    return mask


def made(masks: list[np.ndarray | None]) -> Result:
    times = [index / 10 for index in range(FRAMES)]
    track = MaskTrack.from_masks("t1", masks, times, [0.9] * FRAMES, label="track-1", provenance="model")
    return Result("v", 10.0, WIDTH, HEIGHT, FRAMES, "the red square", "", "trajseg-tiny", [track], {})


@pytest.fixture
def scene(studio: Any, store: Store, client: Any, settings: Any, request: Any) -> SimpleNamespace:
    """A prediction of a still object, in a project with a timeline: in all 12 frames, or only the first ones."""
    shown = getattr(request, "param", FRAMES)
    number = studio.add_project("box")
    studio.projects[number]["label_config"] = fill("box", ["track-1"]).strip().removesuffix("</View>") + TIMELINE
    task = studio.add_task(number, video="/data/upload/1/a.mp4", instruction="the red square")
    project = store.projects.upsert(number, studio.url, "", stamp="1").id
    job, _ = store.jobs.add("prelabel", project, task, "v", "the red square", "prelabel", model_version="trajseg-tiny")
    masks = [square(4)] * shown + [None] * (FRAMES - shown)
    delivery = store.runs.finish(job.id, store.runs.start(job.id) or "", made(masks))
    assert delivery
    assert deliver(store, client, settings, delivery) is None
    [prediction] = studio.of_task(task)
    reader = AnnotationReader(store, settings)

    def read() -> list[Job]:
        store.unread.add(project, [task])
        return reader()

    def refine(job: Job, masks: list[np.ndarray | None], notes: JobNotes | None = None) -> Job:
        delivery = store.runs.finish(job.id, store.runs.start(job.id) or "", made(masks), notes)
        assert delivery
        assert deliver(store, client, settings, delivery) is None
        done: Job = store.jobs.get(job.id)
        return done

    return SimpleNamespace(
        studio=studio, store=store, client=client, task=task, project=project, read=read, refine=refine,
        prediction=prediction, first=copy.deepcopy(prediction["result"]),
    )  # fmt: skip


def boxes(results: list[dict[str, Any]]) -> dict[int, tuple[float, float, float, float]]:
    """Percent box by 1-based frame."""
    [region] = [item for item in results if item["type"] == "videorectangle"]
    return from_sequence(region["value"]["sequence"], FRAMES)


def ranges(results: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return [
        (one["start"], one["end"])
        for item in results
        if item["type"] == "timelinelabels"
        for one in item["value"]["ranges"]
    ]


def stored(scene: Any) -> list[dict[str, Any]]:
    [annotation] = scene.studio.tasks[scene.task]["annotations"]
    held: list[dict[str, Any]] = annotation["result"]
    return held


def with_box_at_6(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results after a person has moved the box on frame 6 (from 1)."""
    results = copy.deepcopy(results)
    [region] = [item for item in results if item["type"] == "videorectangle"]
    keys = [key for key in region["value"]["sequence"] if key["frame"] != 6]
    x, y, width, height = MOVED
    keys.append({**keys[0], "frame": 6, "enabled": True, "x": x, "y": y, "width": width, "height": height})
    region["value"]["sequence"] = sorted(keys, key=lambda key: key["frame"])
    return results


def refined_masks() -> list[np.ndarray | None]:
    """Moving to the right, and gone in the last two frames."""
    return [square(4 + index) for index in range(10)] + [None, None]


def told(scene: Any) -> dict[int, str]:
    rows = scene.store.corrections.of_task(scene.project, scene.task)
    return {row.frame_index: row.kind for row in rows if row.kind != "unchanged"}


def test_boxes_that_a_person_set_stay_and_the_others_follow_the_refined_track(scene: Any) -> None:
    annotation = scene.studio.annotate(scene.task, with_box_at_6(scene.first), parent=scene.prediction["id"])
    before = copy.deepcopy(stored(scene))
    [job] = scene.read()
    assert told(scene) == {5: "edited"}
    job = scene.refine(job, refined_masks())
    wanted = plan(scene.store, scene.client, job)
    assert {change.index for change in wanted.changes if change.kind == "removed"} == {10, 11}
    assert 5 not in {change.index for change in wanted.changes}
    adoption = adopt(scene.store, scene.client, job)
    after = boxes(stored(scene))
    assert after[6] == MOVED
    assert sorted(after) == list(range(1, 11))
    for frame in (1, 2, 3, 4, 5, 7, 8, 9, 10):
        x, y, width, height = 100 * (4 + frame - 1) / WIDTH, 100 * 10 / HEIGHT, 100 * 6 / WIDTH, 100 * 6 / HEIGHT
        assert np.abs(np.subtract(after[frame], (x, y, width, height))).max() <= 0.51, frame
    assert ranges(stored(scene)) == [(1, 10)]
    assert scene.read() == [], "trajseg's own writing is no correction"
    scene.store.corrections.seen(scene.project, annotation, "earlier")
    assert scene.read() == []
    assert told(scene) == {5: "edited"}

    undo(scene.store, scene.client, adoption)
    assert stored(scene) == before
    assert scene.read() == []


def test_a_correction_after_it_counts_alone_and_starts_from_the_refined_track(scene: Any) -> None:
    annotation = scene.studio.annotate(scene.task, with_box_at_6(scene.first), parent=scene.prediction["id"])
    [job] = scene.read()
    job = scene.refine(job, refined_masks())
    earlier = copy.deepcopy(stored(scene))
    adopt(scene.store, scene.client, job)
    given = copy.deepcopy(stored(scene))

    scene.studio.reannotate(scene.task, annotation, earlier)
    assert scene.read() == [], "a page that was open meanwhile wrote back what it had"
    assert told(scene) == {5: "edited"}

    results = copy.deepcopy(given)
    [region] = [item for item in results if item["type"] == "videorectangle"]
    [first] = [key for key in region["value"]["sequence"] if key["frame"] == 1]
    first.update(x=0.0, y=0.0)
    scene.studio.reannotate(scene.task, annotation, results)
    [again] = scene.read()
    assert told(scene) == {0: "edited", 5: "edited"}
    assert again.asked.base_job_id == job.id
    [track] = scene.store.corrections.painted(scene.project, annotation)
    assert set(track.boxes) == {0, 5}


def cut(results: list[dict[str, Any]], start: int, end: int) -> list[dict[str, Any]]:
    """The results after a person has changed the only range of the timeline."""
    results = copy.deepcopy(results)
    [event] = [item for item in results if item["type"] == "timelinelabels"]
    event["value"]["ranges"] = [{"start": start, "end": end}]
    return results


def test_frames_that_a_person_takes_out_of_a_range_are_removed_from_the_track(scene: Any) -> None:
    assert ranges(scene.first) == [(1, FRAMES)]
    annotation = scene.studio.annotate(scene.task, cut(scene.first, 3, 9), parent=scene.prediction["id"])
    [job] = scene.read()
    assert told(scene) == dict.fromkeys((0, 1, 9, 10, 11), "removed")
    [track] = scene.store.corrections.painted(scene.project, annotation)
    assert {2, 8} <= track.shown, "the range's ends were looked at"
    job = scene.refine(job, [None, None, *[square(4)] * 7, None, None, None])
    adopt(scene.store, scene.client, job)
    assert sorted(boxes(stored(scene))) == list(range(3, 10))
    assert ranges(stored(scene)) == [(3, 9)]
    assert scene.read() == []
    scene.studio.reannotate(scene.task, annotation, cut(stored(scene), 3, 7))
    scene.read()
    assert told(scene) == dict.fromkeys((0, 1, 7, 8, 9, 10, 11), "removed")


@pytest.mark.parametrize("scene", [8], indirect=True)
def test_a_longer_range_requests_the_track_there_and_the_answer_reports_the_result(scene: Any) -> None:
    assert ranges(scene.first) == [(1, 8)]
    annotation = scene.studio.annotate(scene.task, cut(scene.first, 1, 11), parent=scene.prediction["id"])
    [job] = scene.read()
    assert told(scene) == dict.fromkeys((8, 9, 10), "extended")
    [track] = scene.store.corrections.painted(scene.project, annotation)
    assert (track.extended, track.vouched, track.shown & {8, 9, 10}) == ({8, 9, 10}, False, set())
    compared = scene.store.corrections.compared(scene.project, annotation).corrections
    assert {row.kind for row in compared} == {"unchanged"}, "nobody has looked at these frames"
    task = Standing(scene.store).task(scene.project, scene.task)
    assert task
    [standing] = task.tracks
    assert set(standing.trust[8:]) == {Trust.PREDICTED}

    note = TrackRefinement(track="t1", label="track-1", chosen="flow", extended=(8, 9), missing=(10,))
    job = scene.refine(job, [square(4)] * 10 + [None, None], JobNotes(refinement=(note,)))
    [text] = [item["value"]["text"] for item in scene.studio.of_task(scene.task)[-1]["result"]
              if item["from_name"] == "answer"]  # fmt: skip
    lost = "track-1: the range was made longer, but the object was not found on frame 11. Draw a box on one of them."
    assert text[0].endswith("track-1: the longer range was filled in on frames 9 to 10.")
    assert text[1] == f"Warning: {lost}"
    assert scene.studio.tasks[scene.task]["data"]["trajseg_warnings"] == lost

    adopt(scene.store, scene.client, job)
    assert sorted(boxes(stored(scene))) == list(range(1, 11))
    assert ranges(stored(scene)) == [(1, 10)]
    assert scene.read() == []
    scene.studio.reannotate(scene.task, annotation, with_box_at_6(stored(scene)))
    [again] = scene.read()
    assert told(scene) == {5: "edited", 8: "extended", 9: "extended"}
    assert again.asked.base_job_id == job.id


@pytest.mark.parametrize("scene", [8], indirect=True)
def test_a_box_that_a_person_set_there_says_more_than_the_range(scene: Any) -> None:
    results = cut(scene.first, 1, 10)
    [region] = [item for item in results if item["type"] == "videorectangle"]
    region["value"]["sequence"].append({**region["value"]["sequence"][-1], "frame": 10, "enabled": False})
    scene.studio.annotate(scene.task, results, parent=scene.prediction["id"])
    scene.read()
    assert told(scene) == {8: "extended", 9: "added"}


@pytest.mark.parametrize("change", ["beyond the clip", "another event", "cleared", "untouched"])
def test_a_range_that_says_nothing_about_the_track_changes_nothing(scene: Any, change: str) -> None:
    [event] = [copy.deepcopy(item) for item in scene.first if item["type"] == "timelinelabels"]
    event |= {"id": "e9", "value": {"ranges": [{"start": 2, "end": 5}], "timelinelabels": ["goal"]}}
    results = {
        "beyond the clip": cut(scene.first, 1, 40),
        "another event": [*scene.first, event],
        "cleared": [item for item in scene.first if item["type"] != "timelinelabels"],
        "untouched": scene.first,
    }[change]
    scene.studio.annotate(scene.task, results, parent=scene.prediction["id"])
    assert scene.read() == []
    assert told(scene) == {}


def test_a_range_that_cannot_be_read_is_named(scene: Any) -> None:
    results = cut(scene.first, 1, 3)
    [event] = [item for item in results if item["type"] == "timelinelabels"]
    event["value"]["ranges"] = [{"start": "soon"}]
    annotation = scene.studio.annotate(scene.task, results, parent=scene.prediction["id"])
    scene.read()
    row = scene.store.corrections.annotation(scene.project, annotation)
    assert row is not None
    assert "range on the timeline" in row.error
