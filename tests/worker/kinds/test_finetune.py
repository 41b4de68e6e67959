"""The job kind `finetune`: versions from its outcome, preemption, and the version served afterwards."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from backend.engines import OfferedEngines
from backend.pages.models import VersionView
from backend.service.training import request_training
from backend.settings import Settings
from backend.store import Job, ReadAnnotation, Store
from backend.store.models import Project
from backend.store.notes import JobNotes
from backend.store.params import FinetuneParams
from tests.poster_clips import BASE_SCENES, FRAMES, HELD_OUT, Drawn, base_set, posters
from trajseg import VideoSegmenter
from trajseg.checkpoints.folders import checkpoint_folder
from trajseg.checkpoints.manifest import AdapterManifest, publish
from trajseg.data.registry import DatasetOptions, open_dataset
from trajseg.files import content_hash, write_json
from trajseg.shapes.evaluation.annotator import by_side, correct
from trajseg.tracks import Result
from trajseg.training.adapter_folder import save_adapter
from trajseg.training.adapters import HEADS, LoraSettings, prepare
from trajseg.training.finetune import FinetuneRecipe
from trajseg.training.round_task import RoundTask, task_from_json
from worker.kinds import finetune
from worker.kinds.base import PreemptedError
from worker.run import keep, run
from worker.state import WorkerState

BASE = "trajseg-tiny"
ENGINES = OfferedEngines(BASE, {BASE: BASE})


@pytest.fixture(scope="module")
def corrected(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A folder of corrections: one training video, and some held out. Each is created once; copy it."""

    @cache
    def made(held_out: int) -> Path:
        posters = open_dataset("posters:train", DatasetOptions(count=60, height=64))
        clips = by_side(posters, {"train": 1, "held-out": held_out})
        return correct(clips, tmp_path_factory.mktemp("corrected") / "corrections", expressions=1)

    return made


@pytest.fixture
def world(tmp_path: Path, tiny_clip: Any, corrected: Callable[[int], Path]) -> Iterator[SimpleNamespace]:
    """A worker with the shipped model, and a project."""
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    settings = Settings(data_dir=tmp_path / "data", media_dirs=(str(tiny_clip.path.parent),))
    resident = WorkerState(settings, store, VideoSegmenter.from_pretrained(BASE, "cpu"))
    keep(resident)
    yield SimpleNamespace(
        resident=resident,
        store=store,
        settings=settings,
        project=store.projects.upsert(12, "http://127.0.0.1:9", "<View/>"),
        video=str(tiny_clip.path),
        corrected=corrected,
    )
    keep(None)
    store.close()


def training(world: SimpleNamespace, held_out: int = 1, params: FinetuneParams | None = None) -> Job:
    """A training whose corrections are already exported: one training video, and some held out."""
    job, created = request_training(world.store, world.project, ENGINES, params)
    assert created
    shutil.copytree(world.corrected(held_out), world.settings.data_dir / "training" / job.id / "corrections")
    return job


def prelabelled(world: SimpleNamespace, task: int, video: Path | None = None) -> Job:
    address = str(video or world.video)
    job, _ = world.store.jobs.add("prelabel", world.project.id, task, address, "the red square", "prelabel")
    run(job.id)
    done: Job = world.store.jobs.get(job.id)
    assert done.state == "done", done.error
    return done


def adapter(folder: Path) -> Path:
    """Trained weights, in the format of a training."""
    model = VideoSegmenter.from_pretrained(BASE, "cpu").model
    for parameters in prepare(model, LoraSettings(), HEADS).values():
        for parameter in parameters:
            parameter.data *= 1.01
    save_adapter(model, LoraSettings(), BASE, folder, HEADS)
    return folder


def test_one_training_at_a_time(world: SimpleNamespace) -> None:
    job, created = request_training(world.store, world.project, ENGINES)
    assert created
    assert request_training(world.store, world.project, ENGINES)[0].id == job.id
    world.store.jobs.cancel(job.id)
    again, created = request_training(world.store, world.project, ENGINES)
    assert created
    assert again.id != job.id


def test_a_training_cancelled_at_the_last_moment_promotes_nothing(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = training(world)

    def child(context: Any, work: Path) -> None:
        """A substitute for the child process: it ends just before somebody cancels the job."""
        (work / "decision.json").write_text(json.dumps({"promoted": True, "reason": "Promoted.", "gain": None}))
        world.store.jobs.cancel(job.id)

    monkeypatch.setattr(finetune, "_run", child)
    run(job.id)
    assert world.store.jobs.get(job.id).state == "cancelled"
    assert [version.state for version in world.store.versions.list()] == ["candidate"]


@pytest.mark.slow
def test_a_training_without_enough_held_out_videos_says_how_many_it_needs(world: SimpleNamespace) -> None:
    job = training(world)
    run(job.id)
    done = world.store.jobs.get(job.id)
    assert done.state == "done", done.error
    assert done.result is not None
    assert done.result["report"]["decision"]["needs_videos"] == 4
    [version] = world.store.versions.list(world.project.id)
    assert (version.state, version.folder) == ("refused", "")
    assert version.reason.startswith("Not promoted: needs about 4 more corrected videos")
    assert not (world.settings.data_dir / "training" / job.id).exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_training_yields_to_a_job_that_comes_in_and_resumes_where_it_was(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = training(world, held_out=3)
    work = world.settings.data_dir / "training" / job.id
    exported = (work / "corrections" / "manifest.json").stat().st_mtime_ns
    arrived: list[float] = []
    report = finetune._report_progress

    def arrival(context: Any, folder: Path) -> None:
        """A job arrives after the training's first step."""
        report(context, folder)
        progress = folder / "progress.json"
        if not arrived and progress.exists() and json.loads(progress.read_text())["done"] >= 1:
            world.store.jobs.add("prelabel", world.project.id, 1, world.video, "it", "prelabel")
            arrived.append(time.monotonic())

    monkeypatch.setattr(finetune, "_report_progress", arrival)
    run(job.id)
    assert arrived
    held = world.store.jobs.get(job.id)
    assert (held.state, held.runs, held.error) == ("queued", 0, ""), "making way counts as no attempt"
    assert time.monotonic() - arrived[0] < finetune.SAVING_SECONDS, "it ended by itself"
    state = torch.load(work / "run" / "state.pt", weights_only=True)
    assert 1 <= state["step"] < FinetuneRecipe().steps
    [waiting] = [one for one in world.store.jobs.newest(state="queued") if one.kind == "prelabel"]
    world.store.jobs.cancel(waiting.id)

    def resumed(context: Any, folder: Path) -> None:
        """A substitute for the child process, which resumes float for float (see the tests of training)."""
        assert torch.load(folder / "run" / "state.pt", weights_only=True)["step"] == state["step"]
        assert json.loads((folder / "task.json").read_text())["work"] == str(folder.resolve() / "run")
        (folder / "decision.json").write_text(json.dumps({"promoted": False, "reason": "Not promoted.", "gain": None}))

    monkeypatch.setattr(finetune, "_run", resumed)
    monkeypatch.setattr(finetune, "export_corrections", lambda *_: pytest.fail("exported a second time"))
    assert (work / "corrections" / "manifest.json").stat().st_mtime_ns == exported
    run(job.id)
    done = world.store.jobs.get(job.id)
    assert (done.state, done.runs) == ("done", 1), done.error


def test_the_settings_decide_on_the_training(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are compared in the number format in which they serve; a job's own steps go before the setting's."""
    tasks: list[RoundTask] = []

    def child(context: Any, work: Path) -> None:
        """A substitute for the child process: a training that is refused."""
        tasks.append(task_from_json(json.loads((work / "task.json").read_text())))
        (work / "decision.json").write_text(
            json.dumps({"promoted": False, "reason": "Not promoted.", "needs_videos": 1})
        )

    monkeypatch.setattr(finetune, "_run", child)
    world.settings.dtype, world.settings.finetune_steps = "bfloat16", 7
    run(training(world).id)
    world.settings.four_bit = True
    run(training(world, params=FinetuneParams(steps=3)).id)
    assert [(task.dtype, task.four_bit, task.recipe.steps) for task in tasks] == [
        ("bfloat16", False, 7),
        ("bfloat16", True, 3),
    ]


@pytest.mark.parametrize(("place", "loaded"), [("the GPU", False), ("this machine", True)])
def test_on_a_gpu_the_model_is_unloaded_while_another_is_trained(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, place: str, loaded: bool
) -> None:
    """A 7B model and the training of one do not fit on a 24 GB card together."""
    model, during = weakref.ref(world.resident.engine.model), list[bool]()

    def child(context: Any, work: Path) -> None:
        """A substitute for the child process: a training that is refused."""
        during.append(model() is not None)
        (work / "decision.json").write_text(json.dumps({"promoted": False, "reason": "Not promoted.", "gain": None}))

    monkeypatch.setattr(finetune, "memory_gb", lambda _device: (24.0, place))
    monkeypatch.setattr(finetune, "_run", child)
    job = training(world)
    run(job.id)
    assert world.store.jobs.get(job.id).state == "done"
    assert during == [loaded]
    assert prelabelled(world, 1)


def test_a_training_starts_over_when_its_recipe_has_changed_since_it_began(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an update of trajseg: resuming with another recipe would be refused."""
    job = training(world)
    work = world.settings.data_dir / "training" / job.id
    states: list[bool] = []

    def child(context: Any, folder: Path) -> None:
        """A substitute for the child process: interrupted after saving its state."""
        states.append((folder / "run" / "state.pt").exists())
        (folder / "run").mkdir(exist_ok=True)
        (folder / "run" / "state.pt").write_bytes(b"")
        if len(states) < 4:
            raise PreemptedError("The training has saved its state and yields.")
        (folder / "decision.json").write_text(json.dumps({"promoted": False, "reason": "Not promoted.", "gain": None}))

    monkeypatch.setattr(finetune, "_run", child)
    for steps in (5, 5, 6, 6):
        world.settings.finetune_steps = steps
        run(job.id)
    assert states == [False, True, False, True]
    assert world.store.jobs.get(job.id).state == "done"
    assert not work.exists()


def promoting(made: Path) -> Callable[[Any, Path], None]:
    """A substitute for the child process: a completed training, whose adapter the gate promotes."""

    def child(context: Any, work: Path) -> None:
        task = json.loads((work / "task.json").read_text())
        decision = {"promoted": True, "reason": "Promoted: a test says so.", "needs_videos": 0}
        manifest = AdapterManifest(task["model_version"], BASE, content_hash(checkpoint_folder(BASE) / "config.json"))
        publish(dataclasses.replace(manifest, decision=decision), made, Path(task["target"]))
        (work / "decision.json").write_text(json.dumps(decision))

    return child


def test_a_promotion_labels_again_even_if_its_worker_dies_at_once(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prelabelled(world, 1)
    job = training(world)
    monkeypatch.setattr(finetune, "_run", promoting(adapter(tmp_path / "made")))
    finish = world.store.runs.finish

    def killed(*parts: Any) -> None:
        """The end of the process, right after the job is done in the store."""
        finish(*parts)
        raise SystemExit

    monkeypatch.setattr(world.store.runs, "finish", killed)
    run(job.id)
    assert world.store.jobs.get(job.id).state == "done"
    [again] = world.store.jobs.newest(state="queued")
    assert (again.kind, again.task_id, again.model_version) == ("prelabel", 1, "trajseg-tiny/project-12@1")


@pytest.mark.parametrize("replaced", [False, True])
def test_a_version_of_a_replaced_base_is_not_compared_with(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    """Otherwise such a project could never be trained again: its serving adapter does not fit the base."""
    monkeypatch.setattr(finetune, "_run", promoting(adapter(tmp_path / "made")))
    run(training(world).id)
    served = world.store.versions.served(world.project.id, BASE)
    if replaced:
        path = world.settings.data_dir / served.folder / "manifest.json"
        write_json(path, {**json.loads(path.read_text()), "base_weights": "another"})
    tasks = []

    def child(context: Any, work: Path) -> None:
        tasks.append(json.loads((work / "task.json").read_text()))
        promoting(tmp_path / "made")(context, work)

    monkeypatch.setattr(finetune, "_run", child)
    run(training(world).id)
    [task] = tasks
    assert task["served_version"] == (BASE if replaced else served.name)
    assert (task["served"] is None) == replaced


def test_a_training_names_the_corrections_that_it_left_out(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The video of task 1 was replaced by another file after it was labelled."""
    store, project, video = world.store, world.project.id, world.video
    shown, _ = store.jobs.add("prelabel", project, 1, video, "the red square", "prelabel")
    result = Result(video, 12.0, 96, 64, 12, "the red square", "", BASE, [])
    store.runs.finish(shown.id, store.runs.start(shown.id) or "", result, JobNotes(video_hash="of another file"))
    store.corrections.record(ReadAnnotation(project, 1, 11, "v1", datetime.now(UTC), "", shown.id), [])

    def child(_context: Any, folder: Path) -> None:
        (folder / "decision.json").write_text(json.dumps({"promoted": False, "reason": "Not promoted.", "gain": None}))

    monkeypatch.setattr(finetune, "_run", child)
    job, _ = request_training(store, world.project, ENGINES)
    run(job.id)
    (version,) = store.versions.list(project)
    ((task, reason),) = version.manifest["left_out"]
    assert task == "task 1"
    assert "is another file than the one that was labelled" in reason
    assert VersionView(version).trained_on.startswith("1 task left out: The video ")


def test_a_promoted_version_serves_the_next_job_and_a_rollback_the_one_after(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = prelabelled(world, 1)
    assert before.model_version == BASE
    job = training(world)
    trainings: list[Path] = []
    substitute = promoting(adapter(tmp_path / "made"))

    def child(context: Any, work: Path) -> None:
        trainings.append(work)
        substitute(context, work)

    monkeypatch.setattr(finetune, "_run", child)
    run(job.id)
    done = world.store.jobs.get(job.id)
    assert done.state == "done", done.error
    name = "trajseg-tiny/project-12@1"
    assert world.store.versions.served_name(world.project.id, BASE) == name
    [again] = [held for held in world.store.jobs.newest(state="queued") if held.kind == "prelabel"]
    assert (again.task_id, again.model_version) == (1, name), "what nobody has annotated is labelled again"
    assert prelabelled(world, 2).model_version == name
    # As after a worker that died between the decision and the end of its job.
    world.store.jobs.retry(job.id)
    run(job.id)
    assert world.store.jobs.get(job.id).result == done.result
    assert len(trainings) == 1, "a version that serves is not trained again"
    other: Project = world.store.projects.upsert(13, "http://127.0.0.1:9", "<View/>")
    held, _ = world.store.jobs.add("prelabel", other.id, 1, world.video, "the red square", "prelabel")
    run(held.id)
    assert world.store.jobs.get(held.id).model_version == BASE, "another project is served by the base"
    ours, theirs = (world.store.jobs.result(one).to_json()["tracks"] for one in (before.id, held.id))
    assert ours == theirs, "bit for bit as before the version was served"
    world.store.versions.rollback(world.project.id, BASE)
    assert prelabelled(world, 3).model_version == BASE


def visible(world: SimpleNamespace, job: Job, drawn: Drawn) -> float:
    """IoU of a job's tracks with the object that its instruction names, over all frames."""
    tracks = world.store.jobs.result(job.id).tracks
    masks = np.array([[track.mask(frame) for frame in range(FRAMES)] for track in tracks])
    shown = masks.any(axis=0) if tracks else np.zeros_like(drawn.truth)
    return float((shown & drawn.truth).sum() / (shown | drawn.truth).sum())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_gate_itself_promotes_a_version_that_is_better(world: SimpleNamespace, tmp_path: Path) -> None:
    """Nothing is substituted: two steps of training, the gate with its own rules, relabelling, rollback."""
    held_out, (train, *left) = posters(tmp_path)
    left = left[:3]
    world.settings.media_dirs = (str(tmp_path),)
    world.settings.base_data = base_set(tmp_path)

    def asked(task: int) -> tuple[Job, bool]:
        drawn = left[task]
        added: tuple[Job, bool] = world.store.jobs.add(
            "prelabel", world.project.id, task, str(drawn.clip.path), drawn.instruction, "prelabel", model_version=BASE
        )
        return added

    for task in range(3):
        run(asked(task)[0].id)
    before = [world.store.jobs.get(asked(task)[0].id) for task in range(3)]
    assert {job.model_version for job in before} == {BASE}
    job, _ = request_training(world.store, world.project, ENGINES, FinetuneParams(steps=2))
    clips = [drawn.annotated() for drawn in (train, *held_out)]
    correct(clips, world.settings.data_dir / "training" / job.id / "corrections")
    run(job.id)
    done = world.store.jobs.get(job.id)
    assert done.state == "done", done.error
    decision = done.result["report"]["decision"]
    assert decision["promoted"], [decision["reason"], decision["project"], decision["base"]]
    assert decision["reason"].startswith("Promoted: +")
    assert (len(decision["project"]), len(decision["base"])) == (len(HELD_OUT), len(BASE_SCENES))
    [version] = world.store.versions.list(world.project.id)
    assert (version.state, version.reason) == ("promoted", decision["reason"])
    queued = world.store.backlog.still_queued([held.id for held in world.store.jobs.newest(state="queued")])
    doubts = [before[held.task_id].notes.doubt for held in queued]
    assert len(queued) == 3
    assert doubts == sorted(doubts, reverse=True), "the most doubtful first"
    for held in queued:
        run(held.id)
        assert world.store.jobs.get(held.id).model_version == version.name
    after = {held.task_id: visible(world, held, left[held.task_id]) for held in queued}
    gains = {task: after[task] - visible(world, job, left[task]) for task, job in enumerate(before)}
    assert np.mean(list(gains.values())) > 0.2, gains
    world.store.versions.rollback(world.project.id, BASE)
    assert prelabelled(world, 9, train.clip.path).model_version == BASE
