"""TRAJSEG_OLDER_PREDICTIONS=replace in a real Label Studio: what a new version's predictions replace, and what not.

Jobs are finished by the test in place of a worker; delivery and deletion are the real ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr
from sqlalchemy import update

from backend.label_studio.client import LabelStudioClient
from backend.label_studio.outgoing.delivery import deliver
from backend.label_studio.outgoing.superseding import current_version, delete_superseded
from backend.settings import Settings
from backend.store import Job, Store
from backend.store.models import SupersededPrediction, now
from backend.store.notes import JobNotes
from label_config import fill
from tests.e2e.studio import TOKEN, LabelStudio
from trajseg.tracks import MaskTrack, Result

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
BASE = "trajseg-tiny"
EARLIER = f"{BASE} (prelabel, earlier)"


@dataclass
class World:
    """Two projects in Label Studio, and a store that knows them."""

    studio: LabelStudio
    store: Store
    client: LabelStudioClient
    settings: Settings
    projects: list[int] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)
    other_task: int = 0

    def predict(self, project: int, task: int, version: str, doubt: float) -> Job:
        """A done job whose prediction has arrived."""
        owner = self.store.projects.upsert(project, self.studio.url, fill("mask", None))
        job, _ = self.store.jobs.add(
            "prelabel", owner.id, task, "/data/clip.mp4", "the square", "prelabel", model_version=version
        )
        self.store.runs.finish(
            job.id, self.store.runs.start(job.id) or "", square(version, task), JobNotes(doubt=doubt, visible=1)
        )
        self.send(job)
        return job

    def send(self, job: Job) -> None:
        delivery = self.store.deliveries.of_job(job.id)
        assert delivery is not None
        failure = deliver(self.store, self.client, self.settings, delivery)
        assert failure is None, failure

    def versions(self, task: int) -> list[str]:
        """The model versions of a task's predictions, oldest first."""
        return [one.model_version for one in self.client.predictions(task)]


def square(version: str, task: int) -> Result:
    """Four frames with a square, elsewhere for each version and task."""
    masks = np.zeros((4, 24, 32), bool)
    left = (len(version) + task) % 20
    masks[:, 4:12, left : left + 8] = True
    times, scores = [0.0, 0.1, 0.2, 0.3], [0.9] * 4
    track = MaskTrack.from_masks("t1", list(masks), times, scores, label="track-1", caption="a square")
    return Result("/data/clip.mp4", 10.0, 32, 24, 4, "the square", "a square [SEG]", version, [track])


@pytest.fixture(scope="module")
def world(studio: LabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Four tasks and one of another project, all predicted by the base."""
    folder = tmp_path_factory.mktemp("replaced")
    store = Store(f"sqlite:///{folder / 'store.db'}")
    store.migrate()
    settings = Settings(
        data_dir=folder,
        label_studio_url=studio.url,
        label_studio_api_key=SecretStr(TOKEN),
        older_predictions="replace",
    )
    client = LabelStudioClient(studio.url, TOKEN)
    made = World(studio, store, client, settings)
    for title, count in (("Replaced", 4), ("Untouched", 1)):
        number = client.create_project(title, fill("mask", None), sampling="Uncertainty sampling")
        made.projects.append(number)
        data = [{"video": "/data/clip.mp4", "instruction": "the square"}] * count
        tasks = client.add_tasks(number, data)
        for task, doubt in zip(tasks, (0.9, 0.5, 0.3, 0.1), strict=False):
            made.predict(number, task, BASE, doubt)
        # As after connecting a backend with this title.
        client.update_project(number, model_version=BASE)
        made.tasks, made.other_task = (tasks, 0) if not made.tasks else (made.tasks, tasks[0])
    yield made
    client.close()
    store.close()


@dataclass(frozen=True)
class Promotion:
    """What a promotion found in Label Studio: the base's predictions by task, imported ones, a draft."""

    version: str
    before: dict[int, int]
    imported: list[int]
    draft: int


@pytest.fixture(scope="module")
def promotion(world: World) -> Promotion:
    """A promoted version has predicted all tasks of the first project."""
    plain, drafted, annotated, _ = world.tasks
    before = {task: world.client.predictions(task)[0].id for task in world.tasks}
    of_another_task = world.client.predictions(drafted)[0].result
    imported = [
        world.client.create_prediction(plain, result, 0.5, version)
        for version, result in ((BASE, []), ("another-model", []), (BASE, of_another_task))
    ]
    form: dict[str, Any] = {"result": of_another_task, "parent_prediction": before[drafted], "lead_time": 3}
    draft = world.studio.call("POST", f"/api/tasks/{drafted}/drafts", json=form)["id"]
    result = world.client.predictions(annotated)[0].result
    form = {"result": result, "parent_prediction": before[annotated]}
    world.studio.call("POST", f"/api/tasks/{annotated}/annotations/", json=form)
    project = world.store.projects.of_label_studio(world.projects[0])
    version = world.store.versions.of_job(project.id, BASE, "a training")
    world.store.versions.decide(version.id, True, "Promoted.", "models/1", {})
    for task, doubt in zip(world.tasks, (0.1, 0.3, 0.5, 0.9), strict=True):
        world.predict(world.projects[0], task, version.name, doubt)
    return Promotion(version.name, before, imported, draft)


def test_a_new_version_takes_over_and_earlier_predictions_stay_attributable(world: World, promotion: Promotion) -> None:
    for task in world.tasks:
        predictions = {one.id: one for one in world.client.predictions(task)}
        replaced = predictions.pop(promotion.before[task])
        assert (replaced.model_version, replaced.score) == (EARLIER, None)
        assert current_version(replaced.model_version) == BASE
        assert promotion.version in [one.model_version for one in predictions.values()]
    assert world.versions(world.other_task) == [BASE], "another project"


def test_the_label_stream_starts_with_the_task_that_the_new_version_doubts_most(
    world: World, promotion: Promotion
) -> None:
    first, other = (world.studio.project(number)["model_version"] for number in world.projects)
    assert (first, other) == (promotion.version, BASE)
    task = world.studio.call("GET", f"/api/projects/{world.projects[0]}/next")
    assert task["id"] == world.tasks[3]


def test_replaced_predictions_are_deleted_unless_somebody_began_with_them(world: World, promotion: Promotion) -> None:
    plain, drafted, annotated, last = world.tasks
    with world.store.database.write() as session:
        session.execute(update(SupersededPrediction).values(delete_at=now() - timedelta(seconds=1)))
    assert delete_superseded(world.store, world.client, world.settings) == 2
    for task, kept in ((plain, False), (drafted, True), (annotated, True), (last, False)):
        assert (promotion.before[task] in [one.id for one in world.client.predictions(task)]) == kept
    imported = {one.id: one.model_version for one in world.client.predictions(plain)}
    assert [imported[one] for one in promotion.imported] == [BASE, "another-model", BASE]
    [draft] = world.client.drafts(drafted)
    assert draft["id"] == promotion.draft
    form = {"result": draft["result"], "parent_prediction": promotion.before[drafted], "draft_id": promotion.draft}
    submitted = world.studio.call("POST", f"/api/tasks/{drafted}/annotations/", json=form)
    assert submitted["parent_prediction"] == promotion.before[drafted], "the page that was open can still submit"
    assert len(world.studio.annotations(annotated)) == 1


def test_after_a_rollback_what_was_replaced_comes_back_and_both_versions_are_named(
    world: World, promotion: Promotion
) -> None:
    plain, drafted = world.tasks[:2]
    project = world.store.projects.of_label_studio(world.projects[0])
    world.store.versions.rollback(project.id, BASE)
    for task in (plain, drafted):
        [job] = [one for one in world.store.jobs.newest(task_id=task) if one.model_version == BASE]
        world.store.deliveries.send_again(job.id)
        world.send(job)
    assert sorted(world.versions(drafted)) == [BASE, promotion.version]
    assert world.client.predictions(drafted)[0].id == promotion.before[drafted], "with its old id"
    # Only one prediction of a version leads its task: imported ones with its name are set aside, not replaced.
    aside = [f"{BASE} (prediction)", f"{BASE} (prelabel)"]
    assert sorted(world.versions(plain)) == sorted([BASE, *aside, "another-model", promotion.version])
    assert world.studio.project(world.projects[0])["model_version"] == BASE
    [data] = [one["data"] for one in world.studio.tasks(world.projects[0]) if one["id"] == drafted]
    assert data["trajseg_open"] == f"#{promotion.before[drafted]} (prelabel)"
    assert data["trajseg_doubt"] == 0.5
