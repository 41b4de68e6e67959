"""Rounds of active learning: choosing tasks, waiting for corrections, training, relabelling, and the report."""

from __future__ import annotations

import copy
import errno
import json
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from backend.active import rounds
from backend.active.pool import TaskPool
from backend.active.rounds import ActiveLearning, Plan, Round
from backend.composition import compose
from backend.locks import held_alone
from backend.queue import JobQueue
from backend.settings import Settings
from backend.store import Change, Job, ReadAnnotation, Store
from backend.store.models import now
from backend.store.notes import JobNotes
from trajseg.cli import main
from trajseg.errors import InputError, ServiceError, StoreError, TrajSegError
from trajseg.tracks import Result, rle

BASE = "trajseg-tiny"


class World:
    """Project 7 with six predicted tasks in two styles; tests play the workers and people."""

    def __init__(self, store: Store, settings: Settings, queue: JobQueue, result: Result) -> None:
        self.store, self.settings, self.result = store, settings, result
        self.backend = compose(settings, store, queue)
        self.project = store.projects.upsert(7, "http://studio", "<View/>")
        self.gone: list[int] = []
        self.shown: list[list[int]] = []
        for task, (doubt, colour) in enumerate([(0.9, 0), (0.88, 0), (0.86, 0), (0.5, 90), (0.4, 90), (0.1, 0)], 1):
            job, _ = store.jobs.add(
                "prelabel", self.project.id, task, "v", "the square", "prelabel", model_version=BASE
            )
            self.finish(job, doubt)
            folder = settings.media_dir / job.id
            folder.mkdir(parents=True)
            picture = cv2.cvtColor(np.full((64, 64, 3), (colour, 200, 200), np.uint8), cv2.COLOR_HSV2BGR)
            assert cv2.imwrite(str(folder / "0.jpg"), picture)

    def finish(self, job: Job, doubt: float = 0.5, version: str = BASE) -> None:
        made = replace(copy.deepcopy(self.result), model_version=version)
        self.store.runs.finish(job.id, self.store.runs.start(job.id) or "", made, JobNotes(doubt=doubt))

    def correct(self, task: int) -> None:
        job = self.store.jobs.newest(task_id=task)[0]
        painted = rle.encode(np.ones((24, 32), bool))
        change = Change("track-1", 0, "edited", "t1", job.id, BASE, painted)
        read = ReadAnnotation(self.project.id, task, 100 + task, "v1", now(), "ada", job.id)
        self.store.corrections.record(read, [change])

    def trained(self, promoted: bool, gain: float | None = 0.1) -> None:
        """Ends the training as a worker does."""
        (job,) = [job for job in self.store.jobs.newest(state="queued") if job.kind == "finetune"]
        reason = "Promoted: it is better." if promoted else "Not promoted: needs about 4 more corrected videos."
        interval = None if gain is None else {"mean": gain, "low": 0.01, "high": 0.2}
        decision = {"promoted": promoted, "reason": reason, "gain": interval}
        report = {"version": f"{BASE}/project-7@1", "decision": decision}
        self.store.runs.finish(job.id, self.store.runs.start(job.id) or "", None, report=report)

    def learning(self, **plan: Any) -> ActiveLearning:
        def show(made: Round) -> list[int]:
            self.shown.append(made.tasks)
            return self.gone

        given = {"budget": 4, "batch": 2, **plan}
        return ActiveLearning(self.store, self.settings, self.backend.service.jobs, self.project, Plan(**given), show)


@pytest.fixture
def world(store: Store, settings: Settings, queue: JobQueue, result: Result) -> World:
    return World(store, settings, queue, result)


def test_the_pool_tells_tasks_that_look_alike_from_others(world: World) -> None:
    candidates, corrected = TaskPool(world.store, world.settings, world.project.id).tasks()
    assert [task.task_id for task in candidates] == [1, 2, 3, 4, 5, 6]
    assert [task.doubt for task in candidates][:2] == [0.9, 0.88]
    assert corrected == []
    one, two, four = (candidates[place].features for place in (0, 1, 3))
    assert np.linalg.norm(one - two) < 0.1 * np.linalg.norm(one - four)
    world.correct(1)
    candidates, corrected = TaskPool(world.store, world.settings, world.project.id).tasks()
    assert ([task.task_id for task in corrected], len(candidates)) == ([1], 5)


def test_the_doubts_are_those_of_the_version_that_serves(world: World) -> None:
    def doubts() -> list[float]:
        return [task.doubt for task in TaskPool(world.store, world.settings, world.project.id).tasks()[0]]

    before = doubts()
    version = world.store.versions.of_job(world.project.id, BASE, "a")
    world.store.versions.decide(version.id, True, "Promoted.", "models/1", {})
    job, _ = world.store.jobs.add(
        "prelabel", world.project.id, 1, "v", "the square", "prelabel", model_version=version.name
    )
    world.finish(job, 0.2, version.name)
    assert doubts() == [0.2, *before[1:]]
    world.store.versions.rollback(world.project.id, BASE)
    assert doubts() == before


def test_rounds_run_to_the_end_of_the_budget_and_each_is_reported(world: World) -> None:
    learning = world.learning()
    (said,) = learning.step()
    assert said == "Round 1: correct these tasks, the most useful first: 1, 4", "doubtful, and not alike"
    assert world.shown == [[1, 4]]
    assert learning.step() == []
    assert learning.waiting_for() == "people to correct 2 of 2 tasks: 1, 4"
    world.correct(1)
    assert learning.waiting_for() == "people to correct 1 of 2 tasks: 4"
    world.correct(4)
    (said,) = learning.step()
    assert "1.0 frames" in said
    assert "training is queued" in said
    assert learning.step() == []
    assert learning.waiting_for().startswith("the training (queued")
    world.trained(promoted=False, gain=None)
    assert learning.step() == ["Round 1: Not promoted: needs about 4 more corrected videos."]
    assert "the previous version keeps serving. 2 of 4 tasks are left." in learning.step()[0]
    (said,) = learning.step()
    assert said.startswith("Round 2: correct these tasks")
    second = learning.rounds[1].tasks
    assert not {1, 4} & set(second)
    for task in second:
        world.correct(task)
    learning.step()
    world.trained(promoted=True)
    assert learning.step() == ["Round 2: Promoted: it is better."]
    again, bad = (
        world.store.jobs.add("prelabel", world.project.id, task, "v", "the square", "prelabel", model_version=version)[
            0
        ]
        for task, version in ((6, f"{BASE}/project-7@1"), (5, f"{BASE}/project-7@1"))
    )
    assert learning.step() == []
    assert learning.waiting_for() == "2 predictions"
    world.finish(again, version=again.model_version)
    world.store.runs.fail(bad.id, world.store.runs.start(bad.id) or "", "No video.")
    assert learning.step() == [
        f"Round 2 is done: {BASE}/project-7@1 has relabelled 1 task, 1 prediction failed or cancelled. "
        "0 of 4 tasks are left."
    ]
    assert learning.finished
    assert [(each.state, each.promoted, each.gain) for each in learning.rounds] == [
        ("done", False, None),
        ("done", True, 0.1),
    ]


def test_a_promotion_that_relabels_nothing_says_so(world: World) -> None:
    """As with TRAJSEG_RELABEL_AFTER_PROMOTION=false."""
    learning = world.learning(budget=1)
    learning.step()
    world.correct(1)
    learning.step()
    world.trained(promoted=True)
    learning.step()
    assert learning.step() == [
        f"Round 1 is done: {BASE}/project-7@1 serves from the next job on. 0 of 1 tasks are left."
    ]


def test_what_was_stopped_resumes_where_it_was(world: World) -> None:
    world.learning().step()
    for task in (1, 4):
        world.correct(task)
    assert "training is queued" in world.learning().step()[0]
    world.trained(promoted=True)
    assert world.learning().step() == ["Round 1: Promoted: it is better."]
    assert [each.number for each in world.learning().rounds] == [1]


def test_a_training_whose_request_was_interrupted_is_not_requested_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill, or a database that stops, after the training was stored and before the round knows of it."""
    learning = world.learning()
    learning.step()
    for task in (1, 4):
        world.correct(task)
    train = world.backend.service.jobs.train

    def interrupted(*given: Any) -> Any:
        train(*given)
        raise StoreError("The store does not answer.")

    with monkeypatch.context() as patched:
        patched.setattr(world.backend.service.jobs, "train", interrupted)
        with pytest.raises(StoreError):
            learning.step()
    world.trained(promoted=True)
    assert "training is queued" in world.learning().step()[0]
    assert world.learning().step() == ["Round 1: Promoted: it is better."]
    assert world.store.jobs.count()["finetune", "done"] == 1
    assert ("finetune", "queued") not in world.store.jobs.count()


def test_rounds_that_cannot_be_stored_say_where_and_what_to_do(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    learning = world.learning()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rounds, "write_json", full)
    with pytest.raises(ServiceError, match=r"cannot be stored in .*project-.*: No space left on device") as refused:
        learning.step()
    assert "Free some disk" in refused.value.remedy


def test_corrections_that_are_still_carried_on_are_waited_for(world: World) -> None:
    learning = world.learning()
    learning.step()
    for task in (1, 4):
        world.correct(task)
    refine, _ = world.store.jobs.add("refine", world.project.id, 4, "v", "it", "interactive", {"annotation_id": 104})
    assert learning.step() == []
    assert "propagate corrections" in learning.waiting_for()
    world.finish(refine)
    assert "training is queued" in learning.step()[0]


def test_a_failed_training_says_why_and_is_requested_again(world: World) -> None:
    learning = world.learning()
    learning.step()
    for task in (1, 4):
        world.correct(task)
    learning.step()
    (job,) = [job for job in world.store.jobs.newest(state="queued") if job.kind == "finetune"]
    world.store.runs.fail(job.id, world.store.runs.start(job.id) or "", "Out of memory.", "Use 4 bits.")
    with pytest.raises(TrajSegError, match="failed: Out of memory"):
        learning.step()
    assert "training is queued" in world.learning().step()[0]


def cancelled_training(world: World) -> tuple[ActiveLearning, Job]:
    """A round of one task whose training was cancelled."""
    learning = world.learning(batch=1)
    learning.step()
    world.correct(1)
    learning.step()
    (job,) = [job for job in world.store.jobs.newest(state="queued") if job.kind == "finetune"]
    world.backend.service.jobs.cancel(job.id)
    return learning, job


def test_a_training_retried_on_the_jobs_page_belongs_to_its_round(world: World) -> None:
    learning, job = cancelled_training(world)
    with pytest.raises(TrajSegError, match="was cancelled"):
        learning.step()
    world.backend.service.jobs.retry(job.id)
    assert world.learning().step() == [f"Round 1: its training was retried (job {job.id})."]
    world.trained(promoted=False)
    assert "Not promoted" in world.learning().step()[0]


def test_a_training_that_is_no_longer_stored_is_requested_again(world: World) -> None:
    learning, job = cancelled_training(world)
    assert world.store.retention.drop_over(None, 1) == []
    assert world.store.retention.drop_over(now() + timedelta(days=1), 0) == [job.id]
    assert learning.waiting_for() == ""
    with pytest.raises(TrajSegError, match="no longer in the store"):
        learning.step()
    assert "training is queued" in world.learning().step()[0]


def test_deleted_tasks_are_not_waited_for(world: World) -> None:
    learning = world.learning()
    learning.step()
    world.gone = [4]
    learning.look_again()
    assert learning.waiting_for() == "people to correct 1 of 1 task: 1"
    assert learning.left == 3
    world.correct(1)
    assert "training is queued" in learning.step()[0]


def test_a_deleted_task_is_not_chosen_again(world: World) -> None:
    learning = world.learning(budget=2, batch=1)
    world.gone = [1]
    assert learning.step() == ["Round 1: all its tasks were deleted or skipped."]
    world.gone = []
    for task in (2, 3, 4):
        world.correct(task)
    (said,) = world.learning(budget=2, batch=2).step()
    assert said == "Round 2: correct these tasks, the most useful first: 5, 6"


def test_only_tasks_that_still_exist_are_named(world: World) -> None:
    world.gone = [1]
    assert world.learning().step() == ["Round 1: correct these tasks, the most useful first: 4"]


def test_tasks_that_are_being_predicted_are_waited_for(world: World) -> None:
    job, _ = world.store.jobs.add("prelabel", world.project.id, 8, "v", "it", "prelabel", model_version=BASE)
    learning = world.learning(strategy="doubt", batch=1)
    assert (learning.finished, learning.step(), learning.waiting_for()) == (False, [], "1 prediction")
    world.finish(job, doubt=0.99)
    assert learning.step() == ["Round 1: correct these tasks, the most useful first: 8"]


def test_the_first_prediction_of_a_project_is_waited_for(world: World) -> None:
    for task in range(1, 7):
        world.correct(task)
    learning = world.learning()
    assert learning.finished, "nothing to correct"
    world.store.jobs.add("prelabel", world.project.id, 8, "v", "it", "prelabel", model_version=BASE)
    assert not learning.finished


def test_an_annotation_that_cannot_be_used_is_named_while_its_task_is_waited_for(world: World) -> None:
    learning = world.learning()
    learning.step()
    unread = ReadAnnotation(world.project.id, 4, 104, "v1", now(), "ada", error="its mask is damaged")
    world.store.corrections.record(unread, [])
    empty = ReadAnnotation(world.project.id, 1, 101, "v1", now(), "ada")
    world.store.corrections.record(empty, [])
    assert learning.waiting_for() == (
        "people to correct 2 of 2 tasks: 1 (annotated, but this says nothing about its tracks), "
        "4 (annotated, but its mask is damaged)"
    )


def test_rounds_end_where_no_task_is_left(world: World) -> None:
    for task in range(1, 7):
        world.correct(task)
    learning = world.learning()
    assert learning.finished
    assert learning.step() == []


def test_an_engine_that_cannot_be_fine_tuned_is_named_before_anybody_corrects(world: World) -> None:
    other = world.settings.model_copy(update={"model": "grounded"})
    world.backend = compose(other, world.store, world.backend.queue)
    with pytest.raises(InputError, match=r"grounded.* cannot be fine-tuned"):
        world.learning()


def test_a_damaged_file_and_an_unknown_strategy_are_named(world: World) -> None:
    with pytest.raises(InputError, match="oracle"):
        world.learning(strategy="oracle")
    learning = world.learning()
    learning.step()
    for damage in ('{"rounds": [{"number": 1', '{"rounds": [{"number": 1, "tasks": "1"}]}', "[]", ""):
        learning.path.write_text(damage)
        with pytest.raises(InputError, match="Delete the file"):
            world.learning()
    learning.path.write_text('{"rounds": [], "project": 8}')
    with pytest.raises(InputError, match="they are of project 8, not 7"):
        world.learning()
    learning.path.write_text('{"rounds": [{"number": 1, "tasks": [1], "state": "sleeping"}]}')
    with pytest.raises(InputError, match="state: Input should be 'correcting'"):
        world.learning()


def test_the_command_does_what_it_can_and_prints_all_rounds_as_json(
    world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAJSEG_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("REDIS_URL", settings.redis_url)
    words = ["active", "--project", "7", "--budget", "4", "--batch", "2", "--once", "--poll", "0.05"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "Round 1: correct these tasks, the most useful first: 1, 4" in done.output
    assert "Waiting for people to correct 2 of 2 tasks: 1, 4." in done.output
    assert json.loads(done.output.splitlines()[-1])["left"] == 2
    for task in (1, 4):
        world.correct(task)
    assert "training is queued" in CliRunner().invoke(main, words).output
    world.trained(promoted=True)
    last = CliRunner().invoke(main, [*words[:4], "2", *words[5:]])
    assert json.loads(last.output.splitlines()[-1])["rounds"][0]["promoted"] is True
    assert (Path(settings.data_dir) / "active" / f"project-{world.project.id}.json").exists()
    assert CliRunner().invoke(main, ["active", "--project", "9", "--budget", "4"]).exit_code == 2


def test_the_command_waits_for_a_store_that_restarts(
    world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAJSEG_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("REDIS_URL", settings.redis_url)
    step, asked = ActiveLearning.step, iter([True, True, False, False])

    def restarting(learning: ActiveLearning) -> list[str]:
        if next(asked):
            raise StoreError("The store does not answer.")
        said = step(learning)
        # So that the command ends.
        monkeypatch.setattr(ActiveLearning, "finished", True)
        return said

    monkeypatch.setattr(ActiveLearning, "step", restarting)
    words = ["active", "--project", "7", "--budget", "4", "--batch", "2", "--poll", "0.05"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert done.output.count("Waiting for the store: The store does not answer.") == 1
    assert "Round 1: correct these tasks, the most useful first: 1, 4" in done.output


def test_a_second_command_for_the_same_project_is_refused(
    world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAJSEG_DATA_DIR", str(settings.data_dir))
    lock = settings.data_dir / "active" / f"project-{world.project.id}.lock"
    with held_alone(lock, "", ""):
        done = CliRunner().invoke(main, ["active", "--project", "7", "--budget", "4", "--once"])
    assert done.exit_code == 2
    assert f"Another `trajseg active` (process {os.getpid()}) runs the rounds of project 7." in done.output
