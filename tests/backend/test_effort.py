"""Correction effort by model version, on the report page and from `trajseg stats`."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient

from backend.effort import EffortReader, by_version, total
from backend.settings import Settings
from backend.stats import project_stats
from backend.store import Change, Job, JobRequest, ReadAnnotation, Store
from backend.store.notes import JobNotes
from trajseg.cli import main
from trajseg.tracks import Result, rle

MONDAY = datetime(2026, 3, 2, 9, tzinfo=UTC)
BASE, FIRST = "trajseg-tiny", "trajseg-tiny/project-7@1"


def mask(left: int) -> rle.Rle:
    drawn = np.zeros((24, 32), bool)
    drawn[4:12, left : left + 8] = True
    return rle.encode(drawn)


class World:
    """Project 7, whose tasks are predicted and annotated."""

    def __init__(self, store: Store, result: Result) -> None:
        self.store, self.result = store, result
        self.project = store.projects.upsert(7, "http://studio", "<View/>").id

    def predicted(self, task: int, version: str, video: str = "", video_hash: str | None = None) -> Job:
        video = video or f"v{task}"
        job, _ = self.store.jobs.add("prelabel", self.project, task, video, "it", "prelabel", model_version=version)
        return self.finished(job, version, video_hash)

    def finished(self, job: Job, version: str, video_hash: str | None = None) -> Job:
        made = replace(copy.deepcopy(self.result), model_version=version)
        self.store.runs.finish(job.id, self.store.runs.start(job.id) or "", made, JobNotes(video_hash=video_hash))
        return self.store.jobs.get(job.id)

    def annotate(self, job: Job, number: int, days: int, *kinds: str, request: bool = False) -> Job | None:
        """Corrections of track-1 by frame; edited masks are moved away completely."""
        changes = [
            Change(
                "track-1",
                index,
                kind,
                "t1",
                job.id,
                job.model_version,
                rle=None if kind == "removed" else mask(20) if kind == "edited" else mask(2 + 2 * index),
            )
            for index, kind in enumerate(kinds)
            if kind
        ]
        read = ReadAnnotation(
            self.project, job.task_id or 0, number, f"v{days}", MONDAY + timedelta(days=days), "ada", job.id
        )
        asked = JobRequest(
            "refine",
            self.project,
            job.task_id,
            "v",
            "it",
            "interactive",
            {"annotation_id": number},
            subject=str(number),
        )
        return self.store.corrections.record(read, changes, asked if request else None)


@pytest.fixture
def world(store: Store, result: Result) -> World:
    return World(store, result)


def test_effort_is_reported_by_the_version_that_predicted_and_by_week(world: World) -> None:
    for task, version, kinds, days in (
        (1, BASE, ("edited", "edited", "unchanged"), 0),
        (2, BASE, ("edited", "unchanged", "unchanged"), 8),
        (3, FIRST, ("unchanged", "unchanged", "unchanged"), 9),
        (4, FIRST, ("edited", "unchanged", "unchanged"), 10),
    ):
        world.annotate(world.predicted(task, version), 10 + task, days, *kinds)
    base, first = by_version(EffortReader().tracks(world.store))
    assert (base.model_version, base.tasks, base.effort.changed_per_track) == (BASE, 2, 1.5)
    assert (first.model_version, first.tasks, first.effort.changed_per_track) == (FIRST, 2, 0.5)
    # Moved masks have nothing in common with the predicted ones.
    assert base.effort.minutes_per_track == pytest.approx((6 * 2.0 + 3 * 37.8) / 60 / 2)
    assert first.effort.minutes_per_track == pytest.approx((6 * 2.0 + 1 * 37.8) / 60 / 2)
    assert base.effort.by_hand_minutes == pytest.approx(6 * 37.8 / 60)
    assert [(monday.isoformat(), effort.changed) for monday, effort in base.weeks.items()] == [
        ("2026-03-02", 2),
        ("2026-03-09", 1),
    ]


def test_a_track_that_is_corrected_twice_counts_once_on_the_version_that_began_it(world: World) -> None:
    job = world.predicted(1, BASE)
    refine = world.annotate(job, 11, 0, "edited", "unchanged", request=True)
    assert refine is not None
    refined = world.finished(refine, FIRST)
    world.annotate(refined, 12, 1, "unchanged", "edited", "unchanged")
    (track,) = EffortReader().tracks(world.store)
    assert track.model_version == BASE
    assert dict(track.effort.kinds) == {"edited": 2, "unchanged": 1}
    assert track.effort.edit_distance == pytest.approx(2.0)


def test_what_a_version_did_not_find_counts_against_it(world: World) -> None:
    """Its prediction has no tracks, so that no correction names it."""
    job = world.predicted(1, BASE)
    for number, frames in ((11, 1), (12, 2)):
        added = [Change("track-1", index, "added", "t1", None, "", rle=mask(20)) for index in range(frames)]
        when = MONDAY + timedelta(days=frames)
        read = ReadAnnotation(world.project, 1, number, f"v{frames}", when, "ada", job.id)
        params = {"annotation_id": number, "base_job_id": job.id}
        asked = JobRequest("refine", world.project, 1, "v", "it", "interactive", params, subject=str(number))
        refine = world.store.corrections.record(read, added, asked)
        (version,) = by_version(EffortReader().tracks(world.store))
        assert (version.model_version, version.effort.changed) == (BASE, frames)
        assert refine is not None
        job = world.finished(refine, FIRST)


def test_what_was_compared_once_is_kept_until_the_annotation_changes(world: World) -> None:
    reader, job = EffortReader(), world.predicted(1, BASE)
    world.annotate(job, 11, 0, "edited")
    assert total(reader.tracks(world.store)).changed == 1
    world.annotate(job, 11, 1, "edited", "edited")
    assert total(reader.tracks(world.store)).changed == 2
    world.store.corrections.withdraw(world.project, 11)
    assert reader.tracks(world.store) == []


def test_the_page_and_the_command_say_the_same(
    world: World, client: FlaskClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAJSEG_DATA_DIR", str(settings.data_dir))
    assert "No task has been annotated yet" in CliRunner().invoke(main, ["stats"]).output
    for task, version, kind in ((1, BASE, "edited"), (2, FIRST, "unchanged")):
        world.annotate(world.predicted(task, version), 10 + task, task, kind, kind)
    done = CliRunner().invoke(main, ["stats", "--project", "7", "--json"])
    (report,) = json.loads(done.output)
    versions = {one["model_version"]: one["corrected_frames_per_track"] for one in report["versions"]}
    assert versions == {BASE: 2.0, FIRST: 0.0}
    assert (report["annotated_tasks"], report["more_videos_until_training"]) == (2, 4)
    for shown in (client.get("/page/report").text, CliRunner().invoke(main, ["stats"]).output):
        for words in (BASE, FIRST, "2.0", "about 4 more corrected videos"):
            assert words in shown
    assert "9" in CliRunner().invoke(main, ["stats", "--project", "9"]).output


def test_several_tasks_about_one_video_are_one_corrected_video(world: World) -> None:
    for task, video in ((1, "same"), (2, "same"), (3, "other")):
        world.annotate(world.predicted(task, BASE, video), 10 + task, task, "edited")
    found = project_stats(world.store, world.store.projects.of_label_studio(7))
    assert (found.corrected, found.advice.videos) == (3, 4)


def test_a_video_counts_once_under_several_addresses_and_as_a_copy(world: World) -> None:
    videos = [("a", "1"), ("b", "1"), ("a", None), ("c", "2"), ("d", "3"), ("e", "4")]
    for task, (address, video_hash) in enumerate(videos, 1):
        world.annotate(world.predicted(task, BASE, address, video_hash), 10 + task, task, "edited")
    project = world.store.projects.of_label_studio(7)
    assert project_stats(world.store, project).advice.videos == 2, "four of about six: a, c, d and e"
    job, _ = world.store.jobs.add("finetune", world.project, None, "", "", "finetune")
    version = world.store.versions.of_job(world.project, BASE, job.id)
    # The training recognised the video of task 4 as a copy of that of task 2.
    clips = [{"name": name, "identity": "sha256:1", "side": "train"} for name in ("task-2", "task-4")]
    world.store.versions.decide(version.id, False, "", "", {"data": {"clips": clips}})
    assert project_stats(world.store, project).advice.videos == 3
