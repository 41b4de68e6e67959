"""Which tasks a promoted version relabels, and in which order; when a project is trained automatically."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from datetime import timedelta

import pytest
from click.testing import CliRunner
from rq import Queue

from backend.composition import compose
from backend.engines import OfferedEngines
from backend.queue import JobQueue
from backend.service.training import due_trainings, relabelling, request_training
from backend.settings import Settings
from backend.store import Change, Job, JobRequest, ReadAnnotation, Store
from backend.store.models import now
from backend.store.notes import JobNotes
from backend.store.params import PrelabelParams
from backend.store.reports import Wanted
from tests.backend.adapter_folder import publish_adapter
from trajseg.cli import main
from trajseg.errors import CheckpointError, InputError
from trajseg.tracks import Result, rle

BASE, PROMOTED = "trajseg-tiny", "trajseg-tiny/project-7@1"


@pytest.fixture
def project_id(store: Store) -> int:
    found: int = store.projects.upsert(7, "http://studio", "<View/>").id
    return found


def predicted(store: Store, project_id: int, result: Result, task: int, doubt: float, version: str = BASE) -> Job:
    job, _ = store.jobs.add(
        "prelabel", project_id, task, f"/data/{task}.mp4", "it", "prelabel", model_version=version, subject=version
    )
    made = replace(copy.deepcopy(result), model_version=version)
    store.runs.finish(job.id, store.runs.start(job.id) or "", made, JobNotes(doubt=doubt))
    return job


def annotate(store: Store, project_id: int, task: int, job: Job, *changed: str) -> None:
    changes = [
        Change(label, 0, "edited", "t1", job.id, BASE, rle.encode(rle.decode({"size": [24, 32], "counts": "P`0"})))
        for label in changed
    ]
    moment = now() + timedelta(seconds=task)
    store.corrections.record(ReadAnnotation(project_id, task, 100 + task, "v1", moment, "ada", job.id), changes)


def test_the_most_doubtful_tasks_that_nobody_has_annotated_are_labelled_first(
    store: Store, project_id: int, result: Result, queue: JobQueue
) -> None:
    doubts = {1: 0.2, 2: 0.9, 3: 0.5, 4: 0.99}
    jobs = {task: predicted(store, project_id, result, task, doubt) for task, doubt in doubts.items()}
    annotate(store, project_id, 4, jobs[4])
    requests = relabelling(store, project_id, PROMOTED)
    assert [request.task_id for request in requests] == [2, 3, 1]
    assert {request.model_version for request in requests} == {PROMOTED}
    queue.enqueue_new([job for job, new in store.jobs.add_all(requests) if new])
    waiting = Queue("prelabel", connection=queue.connection).job_ids
    assert [store.jobs.get(job_id).task_id for job_id in waiting] == [2, 3, 1], "workers take them in this order"


def test_what_the_version_has_labelled_already_is_left_alone(store: Store, project_id: int, result: Result) -> None:
    for task, version in ((1, BASE), (1, PROMOTED), (2, BASE)):
        job, _ = store.jobs.add("prelabel", project_id, task, "/data/1.mp4", "it", "prelabel", model_version=version)
        store.runs.finish(job.id, store.runs.start(job.id) or "", replace(copy.deepcopy(result), model_version=version))
    requested = store.jobs.add_all(relabelling(store, project_id, PROMOTED))
    assert [job.task_id for job, created in requested if created] == [2]


def test_what_is_labelled_again_asks_the_same_as_before(store: Store, project_id: int, result: Result) -> None:
    """Each label's own instruction, an answer typed on the page, and a comparison stay what they are."""

    def done(task: int, instruction: str, params: PrelabelParams, doubt: float, subject: str = "") -> None:
        asked = JobRequest(
            "prelabel", project_id, task, f"/data/{task}.mp4", instruction, "interactive", params, BASE, subject=subject
        )
        [(job, _)] = store.jobs.add_all([asked])
        store.runs.finish(job.id, store.runs.start(job.id) or "", copy.deepcopy(result), JobNotes(doubt=doubt))

    labelled = PrelabelParams(instructions=(("car", "every car"), ("dog", "the dog")), engine="old")
    done(1, "car: every car; dog: the dog", labelled, 0.9)
    done(2, "the red car", PrelabelParams(), 0.8)
    done(2, "the last car", PrelabelParams(typed=True, answer_until=now()), 0.7)
    done(3, "it", PrelabelParams(second="grounded"), 0.6, "compared with grounded")
    requests = relabelling(store, project_id, PROMOTED, "new")
    assert [(request.task_id, request.instruction, request.params, request.subject) for request in requests] == [
        (1, "car: every car; dog: the dog", labelled.model_copy(update={"engine": "new"}), ""),
        (2, "the red car", PrelabelParams(engine="new"), ""),
        (2, "the last car", PrelabelParams(engine="new", typed=True), ""),
        (3, "it", PrelabelParams(engine="new", second="grounded"), "compared with grounded"),
    ]


def test_only_a_tasks_present_instruction_is_labelled_again(store: Store, project_id: int, result: Result) -> None:
    """The prediction for an instruction that was replaced in the task's data would take the lead, if done last."""
    for instruction, doubt in (("the red car", 0.1), ("the blue car", 0.9)):
        job, _ = store.jobs.add("prelabel", project_id, 1, "/data/1.mp4", instruction, "prelabel", model_version=BASE)
        store.runs.finish(job.id, store.runs.start(job.id) or "", copy.deepcopy(result), JobNotes(doubt=doubt))
    assert [request.instruction for request in relabelling(store, project_id, PROMOTED)] == ["the blue car"]


def test_a_project_is_trained_after_as_many_newly_corrected_tracks_as_the_setting_says(
    store: Store, project_id: int, result: Result
) -> None:
    jobs = {task: predicted(store, project_id, result, task, 0.5) for task in (1, 2, 3)}
    engines = OfferedEngines("trajseg-tiny", {"trajseg-tiny": BASE})
    due = due_trainings(store, engines, after=3)
    annotate(store, project_id, 1, jobs[1], "track-1", "track-2")
    assert due() == []
    annotate(store, project_id, 2, jobs[2], "track-1")
    (training,) = due()
    assert (training.kind, training.project_id) == ("finetune", project_id)
    assert due() == [], "one training at a time"
    assert due_trainings(store, engines, after=0)() == []


def test_retries_keep_to_one_training_per_project(store: Store, project_id: int) -> None:
    engines = OfferedEngines("trajseg-tiny", {"trajseg-tiny": BASE})
    ours, theirs = store.projects.get(project_id), store.projects.upsert(8, "http://studio", "<View/>")
    cancelled = []
    for project in (ours, ours, theirs):
        cancelled.append(request_training(store, project, engines)[0].id)
        store.jobs.cancel(cancelled[-1])
    queued = store.selections.queue_again(Wanted(), now())
    assert sorted(job.project_id or 0 for job in queued) == [ours.id, theirs.id]
    (left,) = set(cancelled) - {job.id for job in queued}
    with pytest.raises(InputError, match="its project has another finetune job"):
        store.jobs.retry(left)
    store.jobs.cancel(next(job.id for job in queued if job.project_id == ours.id))
    assert store.jobs.retry(left).state == "queued"


def test_a_project_that_cannot_be_trained_does_not_keep_the_others_waiting(
    store: Store, project_id: int, result: Result
) -> None:
    gone, fixed = (store.projects.upsert(number, "http://studio", "<View/>") for number in (5, 6))
    store.engines.choose(gone.id, "gone")
    store.engines.choose(fixed.id, "grounded")
    for project in (gone.id, fixed.id, project_id):
        annotate(store, project, 1, predicted(store, project, result, 1, 0.5), "track-1")
    engines = OfferedEngines("trajseg-tiny", {"trajseg-tiny": BASE, "grounded": "grounded"})
    (training,) = due_trainings(store, engines, after=1)()
    assert training.project_id == project_id


def test_a_version_promoted_by_hand_labels_again_as_one_that_the_gate_promoted(
    store: Store, project_id: int, result: Result, settings: Settings, queue: JobQueue
) -> None:
    for task, doubt in ((1, 0.2), (2, 0.9)):
        predicted(store, project_id, result, task, doubt)
    refused = store.versions.of_job(project_id, BASE, "a")
    store.versions.decide(refused.id, False, "Not promoted.", "models/1", {})
    publish_adapter(settings.data_dir / "models" / "1", PROMOTED)
    models = compose(settings, store, queue).service.models
    version, again = models.promote(project_id, refused.number)
    assert version.name == PROMOTED
    assert [(job.task_id, job.state, job.model_version) for job in again] == [
        (2, "queued", PROMOTED),
        (1, "queued", PROMOTED),
    ]
    assert models.promote(project_id, refused.number)[1] == [], "they are queued already"
    out, serving, _ = models.rollback(project_id)
    assert (out.name, serving) == (PROMOTED, None)
    quiet = settings.model_copy(update={"relabel_after_promotion": False})
    assert compose(quiet, store, queue).service.models.promote(project_id, refused.number)[1] == []


def delivery_state(store: Store, job: Job) -> str:
    delivery = store.deliveries.of_job(job.id)
    assert delivery is not None
    return str(delivery.state)


def test_after_a_rollback_what_the_version_before_predicted_is_sent_again(
    store: Store, project_id: int, result: Result, settings: Settings, queue: JobQueue
) -> None:
    first, _ = store.jobs.add("prelabel", project_id, 1, "/data/1.mp4", "it", "prelabel", model_version=BASE)
    store.runs.finish(first.id, store.runs.start(first.id) or "", replace(copy.deepcopy(result), model_version=BASE))
    version = store.versions.of_job(project_id, BASE, "a")
    store.versions.decide(version.id, True, "Promoted.", "models/1", {})
    predicted(store, project_id, result, 1, 0.4, PROMOTED)
    predicted(store, project_id, result, 2, 0.4, PROMOTED)
    delivery = store.deliveries.of_job(first.id)
    assert delivery is not None
    store.deliveries.sent(delivery.id, 3)
    again = compose(settings, store, queue).service.models.rollback(project_id)[2]
    assert delivery_state(store, first) == "pending"
    assert [(job.task_id, job.state) for job in again] == [(2, "queued")], "it was never labelled by the base"


def test_a_version_that_is_promoted_again_leads_its_tasks_again(
    store: Store, project_id: int, result: Result, settings: Settings, queue: JobQueue
) -> None:
    publish_adapter(settings.data_dir / "models" / "1", PROMOTED)
    version = store.versions.of_job(project_id, BASE, "a")
    store.versions.decide(version.id, True, "Promoted.", "models/1", {})
    job, _ = store.jobs.add("prelabel", project_id, 1, "/data/1.mp4", "it", "prelabel", model_version=PROMOTED)
    store.runs.finish(job.id, store.runs.start(job.id) or "", replace(copy.deepcopy(result), model_version=PROMOTED))
    delivery = store.deliveries.of_job(job.id)
    assert delivery is not None
    store.deliveries.sent(delivery.id, 3)
    models = compose(settings, store, queue).service.models
    models.rollback(project_id)
    assert delivery_state(store, job) == "sent"
    assert models.promote(project_id, 1)[1] == [], "it was labelled by this version"
    assert delivery_state(store, job) == "pending"


def test_a_prediction_by_another_version_does_not_stand_for_the_wanted_one(
    store: Store, project_id: int, result: Result
) -> None:
    """A job that waited while a version was promoted is done by that version; after a rollback the base is asked."""

    def asked() -> tuple[Job, bool]:
        return store.jobs.add("prelabel", project_id, 1, "/data/1.mp4", "it", "prelabel", model_version=BASE)

    job, _ = asked()
    made = replace(copy.deepcopy(result), model_version=PROMOTED)
    store.runs.finish(job.id, store.runs.start(job.id) or "", made)
    again, created = asked()
    assert created
    assert again.id != job.id
    assert asked()[0].id == again.id
    store.runs.finish(again.id, store.runs.start(again.id) or "", replace(made, model_version=BASE))
    assert asked()[0].id == again.id


def test_an_adapter_that_is_missing_damaged_or_another_one_is_not_promoted(
    store: Store, project_id: int, settings: Settings, queue: JobQueue
) -> None:
    version = store.versions.of_job(project_id, BASE, "a")
    store.versions.decide(version.id, False, "Not promoted.", "models/1", {})
    models, folder = compose(settings, store, queue).service.models, settings.data_dir / "models" / "1"
    with pytest.raises(CheckpointError, match=r"There is no folder .* on this machine") as refused:
        models.promote(project_id, 1)
    assert "Share TRAJSEG_DATA_DIR with the machine that trained this version" in refused.value.remedy
    publish_adapter(folder, "trajseg-tiny/project-8@1")
    with pytest.raises(CheckpointError, match=f"holds the adapter trajseg-tiny/project-8@1, not {PROMOTED}"):
        models.promote(project_id, 1)
    shutil.rmtree(folder)
    publish_adapter(folder, PROMOTED)
    (folder / "adapter_model.safetensors").write_text("damaged")
    with pytest.raises(CheckpointError, match="its hash has changed"):
        models.promote(project_id, 1)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        models.promote(project_id, 1)
    assert store.versions.served_name(project_id, BASE) == BASE


def test_a_version_that_was_never_trained_says_why_it_cannot_be_promoted(store: Store, project_id: int) -> None:
    version = store.versions.of_job(project_id, BASE, "a")
    with pytest.raises(InputError, match="no adapter yet"):
        store.versions.promote(project_id, 1)
    store.versions.decide(version.id, False, "Not promoted: needs about 2 more corrected videos.", "", {})
    with pytest.raises(InputError, match="has no adapter: Not promoted: needs about 2 more corrected videos"):
        store.versions.promote(project_id, 1)
    with pytest.raises(InputError, match="Project 7 has no model version 4"):
        store.versions.promote(project_id, 4)


def test_the_command_queues_one_training_and_says_if_the_queued_one_is_another(
    store: Store, project_id: int, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAJSEG_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("REDIS_URL", settings.redis_url)

    def finetune(*more: str) -> str:
        output: str = CliRunner().invoke(main, ["finetune", "--project", "7", *more]).output
        return output

    first = finetune("--steps", "5")
    (job,) = store.jobs.newest(state="queued")
    assert (job.kind, job.params["steps"]) == ("finetune", 5)
    assert first == f"Queued: job {job.id}\n"
    assert finetune("--steps", "5") == f"Already queued: job {job.id}\n"
    assert finetune("--seed", "3") == f"Already queued: job {job.id}, with other --steps or --seed\n"
    for wrong in (("--steps", "1000001"), ("--steps", "0"), ("--seed", "4294967296"), ("--seed", "-1")):
        assert "is not in the range" in finetune(*wrong)
    assert len(store.jobs.newest(state="queued")) == 1
