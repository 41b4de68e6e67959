"""A prediction that somebody may have open is never deleted, because the annotator's Submit would be refused."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import pytest

from backend.label_studio.client import LabelStudioClient
from backend.label_studio.outgoing import delivery as delivery_module
from backend.label_studio.outgoing.superseding import delete_superseded, withdraw
from backend.settings import Settings
from backend.store import Delivery, Job, Store
from backend.store.models import now
from tests.backend.label_studio.conftest import Bench, FakeLabelStudio
from trajseg.errors import LabelStudioError
from trajseg.tracks import Result


def deliver(*parts: Any) -> bool:
    """Whether a delivery arrives."""
    return delivery_module.deliver(*parts) is None


@pytest.fixture
def task(studio: Any) -> int:
    return studio.add_task(studio.add_project("mask"), video="v", instruction="the red square")


@pytest.fixture
def smaller(result: Result) -> Result:
    """The same track with one frame less."""
    changed = copy.deepcopy(result)
    changed.tracks[0].frames[0].rle = None
    return changed


def finish(
    store: Store,
    studio: Any,
    task: int,
    shown: Result,
    kind: str = "prelabel",
    model_version: str = "trajseg-tiny",
    **params: Any,
) -> Job:
    """A done job of a kind for the task, whose delivery is due."""
    project = store.projects.upsert(studio.tasks[task]["project"], studio.url, "", stamp="1")
    shown = copy.deepcopy(shown)
    shown.instruction, shown.model_version = "the red square", model_version
    job, created = store.jobs.add(
        kind, project.id, task, "v", shown.instruction, "interactive", params, model_version=model_version,
        subject=str(params),
    )  # fmt: skip
    if not created:
        store.jobs.retry(job.id)
    store.runs.finish(job.id, store.runs.start(job.id) or "", shown)
    return job


def delivery_of(store: Store, job: Job) -> Delivery:
    delivery = store.deliveries.of_job(job.id)
    assert delivery
    return delivery


@pytest.fixture
def arrive(store: Store, client: LabelStudioClient, settings: Settings, studio: Any, task: int) -> Any:
    """Finishes a job of a kind with these tracks, and delivers it; returns the job."""

    def make(shown: Result, kind: str = "prelabel", **params: Any) -> Job:
        job = finish(store, studio, task, shown, kind, **params)
        assert deliver(store, client, settings, delivery_of(store, job))
        return job

    return make


def hours_later(store: Store) -> None:
    """As if all superseded predictions had been there for hours."""
    with store.database.write() as session:
        from backend.store.models import SupersededPrediction

        for row in session.query(SupersededPrediction):
            row.delete_at = now() - timedelta(seconds=1)


def test_captions_are_added_to_the_prediction_that_is_there(bench: Bench, arrive: Any, result: Result) -> None:
    silent = copy.deepcopy(result)
    for track in silent.tracks:
        track.caption = ""
    refine = arrive(silent, "refine")
    (before,) = copy.deepcopy(bench.of_task())
    arrive(result, "caption", job_id=refine.id)
    (after,) = bench.of_task()
    assert after["id"] == before["id"]
    pictures = [
        [item["value"] for item in prediction["result"] if item["type"] == "bitmasklabels"]
        for prediction in (before, after)
    ]
    assert pictures[0] == pictures[1]
    assert ["track-1: a red square"] in [item["value"].get("text") for item in after["result"]]


def test_captions_that_arrived_first_are_not_taken_away_again(bench: Bench, arrive: Any, result: Result) -> None:
    silent = copy.deepcopy(result)
    silent.tracks[0].caption = ""
    refine = arrive(silent, "refine")
    arrive(result, "caption", job_id=refine.id)
    (before,) = copy.deepcopy(bench.of_task())
    bench.store.deliveries.send_again(refine.id)
    assert bench.deliver(delivery_of(bench.store, refine))
    assert bench.of_task() == [before]


def test_other_masks_leave_the_older_prediction_with_its_id(
    bench: Bench, arrive: Any, result: Result, smaller: Result
) -> None:
    arrive(result)
    (older,) = [one["id"] for one in bench.of_task()]
    arrive(smaller, "refine")
    assert older in bench.studio.predictions
    superseded, current = bench.of_task()
    assert superseded["model_version"] == "trajseg-tiny (prelabel, earlier)"
    assert superseded["score"] is None
    assert current["model_version"] == "trajseg-tiny"


def test_a_superseded_prediction_stays_for_hours_and_then_goes(
    bench: Bench, arrive: Any, result: Result, smaller: Result
) -> None:
    arrive(result)
    arrive(smaller, "refine")
    assert delete_superseded(bench.store, bench.client, bench.settings) == 0
    assert len(bench.of_task()) == 2
    hours_later(bench.store)
    assert delete_superseded(bench.store, bench.client, bench.settings) == 1
    assert [one["model_version"] for one in bench.of_task()] == ["trajseg-tiny"]
    assert bench.store.superseded.due() == []


@pytest.mark.parametrize("why", ["draft", "annotation"])
def test_a_superseded_prediction_that_something_refers_to_stays(
    bench: Bench, arrive: Any, result: Result, smaller: Result, why: str
) -> None:
    arrive(result)
    (parent,) = [one["id"] for one in bench.of_task()]
    arrive(smaller, "refine")
    if why == "draft":
        bench.studio.tasks[bench.task]["draft_exists"] = True
    else:
        bench.studio.annotate(bench.task, [], parent)
    hours_later(bench.store)
    assert delete_superseded(bench.store, bench.client, bench.settings) == 0
    assert parent in bench.studio.predictions
    (row,) = bench.store.superseded.of_task(bench.store.projects.list()[0].id, bench.task)
    assert row.delete_at > now() + timedelta(hours=1)


def test_a_task_that_is_opened_keeps_its_superseded_predictions_for_hours_more(
    bench: Bench, arrive: Any, result: Result, smaller: Result
) -> None:
    arrive(result)
    job = arrive(smaller, "refine")
    hours_later(bench.store)
    bench.store.superseded.postpone(job.project_id, bench.task, now() + timedelta(hours=1))
    assert delete_superseded(bench.store, bench.client, bench.settings) == 0
    assert len(bench.of_task()) == 2


def test_a_deleted_task_or_prediction_does_not_keep_the_others_from_going(
    bench: Bench, arrive: Any, result: Result, smaller: Result
) -> None:
    other = bench.studio.add_task(bench.studio.tasks[bench.task]["project"], video="v", instruction="the red square")
    for number in (bench.task, other):
        for shown, kind in ((result, "prelabel"), (smaller, "refine")):
            job = finish(bench.store, bench.studio, number, shown, kind)
            assert bench.deliver(delivery_of(bench.store, job))
    del bench.studio.tasks[bench.task]
    hours_later(bench.store)
    assert delete_superseded(bench.store, bench.client, bench.settings) == 1
    assert len(bench.studio.of_task(other)) == 1
    assert bench.store.superseded.due() == []


def test_label_studio_away_leaves_superseded_predictions_for_later(
    studio: FakeLabelStudio, store: Store, settings: Settings, arrive: Any, result: Result, smaller: Result
) -> None:
    arrive(result)
    arrive(smaller, "refine")
    hours_later(store)
    studio.stop()
    impatient = LabelStudioClient(studio.url, settings.label_studio_api_key.get_secret_value(), attempts=1)
    with pytest.raises(LabelStudioError):
        delete_superseded(store, impatient, settings)
    impatient.close()
    assert len(store.superseded.due()) == 1


def test_a_new_guess_does_not_supersede_what_a_person_corrected(
    bench: Bench, arrive: Any, result: Result, smaller: Result
) -> None:
    arrive(smaller, "refine")
    arrive(result)
    assert [one["model_version"] for one in bench.of_task()] == [
        "trajseg-tiny",
        "trajseg-tiny (prelabel)",
    ]
    assert bench.of_task()[1]["score"] is None
    assert bench.data()["trajseg_state"] == "refined"


def test_a_typed_answer_is_kept_beside_the_prediction_to_open(
    bench: Bench, arrive: Any, result: Result, smaller: Result
) -> None:
    first = arrive(result)
    arrive(smaller, typed=True)
    older, typed = bench.of_task()
    assert (older["model_version"], typed["model_version"]) == ("trajseg-tiny", "trajseg-tiny (typed)")
    assert (older["score"] is None, typed["score"]) == (False, None)
    data = bench.data()
    assert data["trajseg_open"] == f"#{older['id']} (prelabel)"
    assert data["trajseg_state"] == "prelabelled"
    arrive(smaller, "refine", base_job_id=first.id)
    listed = [one["model_version"] for one in bench.of_task()]
    assert listed == ["trajseg-tiny (prelabel, earlier)", "trajseg-tiny (typed)", "trajseg-tiny"]


def test_a_typed_prediction_leads_until_there_is_another(
    bench: Bench, arrive: Any, result: Result, smaller: Result
) -> None:
    arrive(smaller, typed=True)
    assert [one["model_version"] for one in bench.of_task()] == ["trajseg-tiny"]
    arrive(result)
    listed = {one["model_version"] for one in bench.of_task()}
    assert "trajseg-tiny" in listed
    assert len(listed) == 2


def test_suggestions_that_were_accepted_in_the_page_are_not_delivered(
    bench: Bench, arrive: Any, result: Result, smaller: Result
) -> None:
    arrive(result)
    job = finish(bench.store, bench.studio, bench.task, smaller, typed=True)
    region = {"from_name": "mask", "type": "bitmasklabels", "meta": {"job_id": job.id}, "value": {}}
    bench.studio.tasks[bench.task]["drafts"] = [{"id": 3, "result": [region]}]
    assert bench.deliver(delivery_of(bench.store, job))
    assert len(bench.of_task()) == 1
    assert (delivery_of(bench.store, job).state, delivery_of(bench.store, job).prediction_id) == ("sent", None)


def test_a_typed_sentence_that_means_nothing_makes_no_prediction(bench: Bench, arrive: Any, result: Result) -> None:
    arrive(result)
    none = copy.deepcopy(result)
    none.tracks = []
    job = finish(bench.store, bench.studio, bench.task, none, typed=True)
    assert bench.deliver(delivery_of(bench.store, job))
    assert len(bench.of_task()) == 1


@pytest.mark.parametrize("opened", [True, False])
def test_pictures_of_an_open_task_keep_their_places(
    studio: FakeLabelStudio, store: Store, client: LabelStudioClient, settings: Settings, result: Result, opened: bool
) -> None:
    """An open page refers to "picture 2", whatever the task's data says now."""
    project = studio.add_project("mask")
    task = studio.add_task(project, video="v", instruction="the red square", frames=["/a", "/b"], frame_index=[0, 3])
    job = finish(store, studio, task, result)
    if opened:
        store.tasks.opened(project, task)
    assert deliver(store, client, settings, delivery_of(store, job))
    data = studio.tasks[task]["data"]
    assert data["frame_index"] == ([0, 3, 1, 2] if opened else [0, 1, 2, 3])
    assert (data["frames"][:2] == ["/a", "/b"]) is opened


def test_a_superseded_prediction_of_a_task_that_was_opened_lately_stays(
    bench: Bench, arrive: Any, result: Result, smaller: Result
) -> None:
    first = arrive(result)
    arrive(smaller, "refine")
    hours_later(bench.store)
    bench.store.tasks.opened(first.project_id, bench.task)
    assert delete_superseded(bench.store, bench.client, bench.settings) == 0
    assert len(bench.of_task()) == 2
    assert bench.store.superseded.due() == []


def test_pictures_keep_their_places_when_a_prediction_is_superseded(
    bench: Bench, arrive: Any, result: Result, smaller: Result
) -> None:
    arrive(result)
    before = bench.data()["frame_index"]
    arrive(smaller, "refine")
    assert bench.data()["frame_index"][: len(before)] == before


NEWER = "trajseg-tiny/project-1@1"


def test_a_new_versions_prediction_is_kept_beside_the_older_ones(
    bench: Bench, arrive: Any, result: Result, smaller: Result
) -> None:
    arrive(result)
    arrive(smaller, model_version=NEWER)
    assert [one["model_version"] for one in bench.of_task()] == ["trajseg-tiny", NEWER]


def test_by_setting_a_new_version_replaces_what_earlier_ones_predicted(
    bench: Bench, arrive: Any, result: Result, smaller: Result
) -> None:
    bench.settings.older_predictions = "replace"
    arrive(result)
    arrive(result, model_version="another-engine")
    arrive(smaller, model_version=NEWER)
    versions = [one["model_version"] for one in bench.of_task()]
    assert versions == ["trajseg-tiny (prelabel, earlier)", "another-engine", NEWER]
    arrive(result, model_version="trajseg-tiny/project-1@2")
    versions = [one["model_version"] for one in bench.of_task()]
    assert versions[2:] == [f"{NEWER} (prelabel, earlier)", "trajseg-tiny/project-1@2"]


def test_an_older_versions_job_that_arrives_late_replaces_nothing(
    bench: Bench, arrive: Any, result: Result, smaller: Result
) -> None:
    bench.settings.older_predictions = "replace"
    late = finish(bench.store, bench.studio, bench.task, result)
    arrive(smaller, model_version=NEWER)
    assert bench.deliver(delivery_of(bench.store, late))
    assert [one["model_version"] for one in bench.of_task()] == [NEWER, "trajseg-tiny"]


def test_by_setting_a_new_version_leaves_what_a_person_corrected(
    bench: Bench, arrive: Any, result: Result, smaller: Result
) -> None:
    bench.settings.older_predictions = "replace"
    arrive(result, kind="refine", annotation_id=1)
    arrive(smaller, model_version=NEWER)
    assert [one["model_version"] for one in bench.of_task()] == ["trajseg-tiny", NEWER]


def promoted(store: Store, studio: FakeLabelStudio, task: int) -> str:
    """The name of a version of the task's project that serves from now on."""
    project = store.projects.upsert(studio.tasks[task]["project"], studio.url, "", stamp="1")
    version = store.versions.of_job(project.id, "trajseg-tiny", "a training")
    return store.versions.decide(version.id, True, "Promoted.", "models/1", {}).name


def test_the_label_stream_is_ordered_by_the_scores_of_the_version_that_serves(
    bench: Bench, arrive: Any, result: Result, smaller: Result
) -> None:
    """Label Studio considers only predictions of the project's model version."""
    form = bench.studio.projects[bench.studio.tasks[bench.task]["project"]]
    form["model_version"] = "trajseg-tiny"
    arrive(result)
    newer = promoted(bench.store, bench.studio, bench.task)
    arrive(result, model_version="another-engine")
    assert form["model_version"] == "trajseg-tiny"
    arrive(smaller, model_version=newer)
    assert form["model_version"] == newer
    bench.store.versions.rollback(1, "trajseg-tiny")
    arrive(smaller, model_version=newer, engine="late")
    assert form["model_version"] == newer
    arrive(smaller, model_version="trajseg-tiny", engine="again")
    assert form["model_version"] == "trajseg-tiny"
    for chosen in ("", "another-engine"):
        form["model_version"] = chosen
        arrive(result, model_version="trajseg-tiny", engine=f"after {chosen}")
        assert form["model_version"] == chosen, "somebody's choice"


def test_another_tasks_prediction_that_was_imported_is_left_alone(
    bench: Bench, studio: FakeLabelStudio, arrive: Any, result: Result, smaller: Result
) -> None:
    """Its regions name the other task's job."""
    bench.settings.older_predictions = "replace"
    other = studio.add_task(studio.tasks[bench.task]["project"], video="v", instruction="the red square")
    job = finish(bench.store, studio, other, result)
    assert bench.deliver(delivery_of(bench.store, job))
    [exported] = studio.of_task(other)
    copied = bench.client.create_prediction(bench.task, exported["result"], 0.5, "trajseg-tiny")
    arrive(smaller, model_version=NEWER)
    assert {one["id"]: one["model_version"] for one in bench.of_task()}[copied] == "trajseg-tiny"


def test_what_was_replaced_comes_back_with_its_columns_when_it_is_sent_again(
    bench: Bench, arrive: Any, result: Result, smaller: Result
) -> None:
    """As after a rollback."""
    bench.settings.older_predictions = "replace"
    first = arrive(result)
    before = dict(bench.data())
    arrive(smaller, model_version=NEWER)
    assert bench.data()["trajseg_open"] != before["trajseg_open"]
    bench.store.deliveries.send_again(first.id)
    assert bench.deliver(delivery_of(bench.store, first))
    assert [one["model_version"] for one in bench.of_task()] == ["trajseg-tiny", NEWER]
    assert {key: bench.data()[key] for key in before} == before


def test_after_a_rollback_what_was_kept_beside_it_leads_again_with_its_columns(
    bench: Bench, arrive: Any, result: Result, smaller: Result
) -> None:
    form = bench.studio.projects[bench.studio.tasks[bench.task]["project"]]
    first = arrive(result)
    form["model_version"] = "trajseg-tiny"
    before = dict(bench.data())
    newer = promoted(bench.store, bench.studio, bench.task)
    later = arrive(smaller, model_version=newer)
    assert bench.data()["trajseg_open"] != before["trajseg_open"]
    bench.store.deliveries.send_again(first.id)
    assert bench.deliver(delivery_of(bench.store, first))
    assert bench.data()["trajseg_open"] != before["trajseg_open"], "it does not serve"
    bench.store.versions.rollback(1, "trajseg-tiny")
    bench.store.deliveries.send_again(first.id)
    assert bench.deliver(delivery_of(bench.store, first))
    assert [one["model_version"] for one in bench.of_task()] == ["trajseg-tiny", newer]
    assert {key: bench.data()[key] for key in before} == before
    assert form["model_version"] == "trajseg-tiny"
    bench.store.versions.promote(1, 1)
    bench.store.deliveries.send_again(later.id)
    assert bench.deliver(delivery_of(bench.store, later))
    assert form["model_version"] == newer
    assert bench.data()["trajseg_open"] == f"#{bench.of_task()[1]['id']} (prelabel)"


def test_a_withdrawn_correction_brings_back_what_an_earlier_version_predicted(
    bench: Bench, arrive: Any, result: Result, smaller: Result
) -> None:
    """A task that was annotated before the promotion, and corrected again afterwards."""
    bench.settings.older_predictions = "replace"
    first = arrive(result)
    arrive(smaller, kind="refine", annotation_id=7, base_job_id=first.id, model_version=NEWER)
    assert [one["model_version"] for one in bench.of_task()] == ["trajseg-tiny (prelabel, earlier)", NEWER]
    project = bench.store.projects.list()[0]
    withdraw(
        bench.store, bench.client, bench.settings, project, bench.client.task(project.label_studio_id, bench.task), {7}
    )
    assert [one["model_version"] for one in bench.of_task()] == ["trajseg-tiny", f"{NEWER} (refined, earlier)"]
    assert bench.data()["trajseg_open"] == f"#{bench.of_task()[0]['id']} (prelabel)"
