"""A project whose labels have instructions: one job finds all of them, and the box view's timeline has their ranges."""

from __future__ import annotations

import re

import pytest

from label_config import parse
from tests.e2e.editor import MINUTE, Editor
from tests.e2e.serving import JOB_SECONDS, Question, Trajseg
from tests.e2e.studio import LabelStudio, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
SAID = {"ring": "the red ring", "square": "the blue square"}


def created(trajseg: Trajseg, studio: LabelStudio, view: str, question: Question) -> tuple[int, int]:
    """A project made by the command line, and its one task."""
    labels = [word for name, text in SAID.items() for word in ("--label", f"{name}={text}")]
    done = trajseg.cli("project", "create", str(question.video), "--title", f"Labels {view}", "--config", view, *labels)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"/projects/(\d+)", done.stdout)
    assert found, done.stdout
    [task] = studio.tasks(int(found[1]))
    return int(found[1]), int(task["id"])


def delivered(trajseg: Trajseg, task: int) -> dict:
    def over() -> dict | None:
        jobs = trajseg.jobs(task)
        assert not [job for job in jobs if job["state"] == "failed"], jobs
        return next((job for job in jobs if job["state"] == "done" and trajseg.delivered(job["id"])), None)

    return wait_until(f"the job of task {task}", over, JOB_SECONDS, every=0.5)


def test_label_studio_keeps_the_attribute_and_each_label_gets_its_tracks(
    trajseg: Trajseg, studio: LabelStudio, questions: list[Question], editor: Editor
) -> None:
    project, task = created(trajseg, studio, "mask", questions[0])
    config = parse(studio.project(project)["label_config"])
    assert dict(config.instructions) == SAID
    studio.retrieve_predictions(project, [task])
    job = delivered(trajseg, task)
    assert job["instruction"] == "ring: the red ring; square: the blue square"
    assert [track.label for track in trajseg.result(job["id"]).tracks] == ["ring", "square"]
    editor.open_task(project, task, regions=4)
    assert {label for region in editor.regions() for label in region["labels"]} == {"ring", "square"}
    assert dict(parse(studio.project(project)["label_config"]).instructions) == SAID
    editor.screenshot("labels-mask")
    said = trajseg.client.get("/jobs", params={"task": task}).json()["jobs"]
    assert len(said) == 1, "one job for all labels"


def test_the_timeline_shows_when_a_track_is_there(
    trajseg: Trajseg, studio: LabelStudio, questions: list[Question], editor: Editor
) -> None:
    project, task = created(trajseg, studio, "box", questions[0])
    xml = studio.project(project)["label_config"]
    tag = '<TimelineLabels name="events" toName="video"><Label value="ring"/><Label value="square"/></TimelineLabels>'
    studio.call(
        "PATCH",
        f"/api/projects/{project}/",
        json={"label_config": f"{xml.rstrip().removesuffix('</View>')}{tag}</View>"},
    )
    assert dict(parse(studio.project(project)["label_config"]).instructions) == SAID
    studio.retrieve_predictions(project, [task])
    job = delivered(trajseg, task)
    result = trajseg.result(job["id"])
    editor.open_task(project, task, regions=2)
    editor.page.wait_for_function(
        "() => Htx.annotationStore.selected.regions.some(r => r.type === 'timelineregion')", timeout=MINUTE
    )
    shown = editor.page.evaluate(
        """() => Htx.annotationStore.selected.regions.filter(r => r.type === 'timelineregion')
            .flatMap(r => r.ranges.map(range => [r.labels[0], range.start, range.end]))"""
    )
    for track in result.tracks:
        ranges = sorted((start, end) for label, start, end in shown if label == track.label)
        assert ranges[0][0] == track.present[0] + 1, "frames are counted from 1"
        assert ranges[-1][1] == track.present[-1] + 1
    editor.screenshot("labels-timeline")
