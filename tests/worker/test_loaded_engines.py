"""A worker with several engines: which stay in memory, and which one runs a job."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.engines import OfferedEngines
from backend.settings import Settings
from backend.store import Job, Store
from tests.scripted import ScriptedEngine
from trajseg.checkpoints.manifest import AdapterManifest
from trajseg.engines.base import PLAIN, EngineSpec, RunContext
from trajseg.engines.segmentation import Segmentation
from trajseg.errors import CheckpointError, InputError
from trajseg.files import write_json
from trajseg.machine import GB
from trajseg.video import Clip
from worker.engines import LoadedEngines, parameter_bytes
from worker.run import keep, run
from worker.state import WorkerState

GROUNDED_TINY = Path(__file__).parents[2] / "trajseg" / "shapes" / "engines" / "grounded-tiny"


class Weighty:
    """An engine with `megabytes` of parameters, which its spec may or may not declare."""

    def __init__(self, name: str, megabytes: int, declared_gb: float = 0.0) -> None:
        self.spec = EngineSpec(name=name, model_version=name, memory_gb=declared_gb)
        self.parts = [torch.nn.Linear(250_000, megabytes, bias=False)]
        self.same = {"again": self.parts[0]}

    def segment(self, clip: Clip, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        raise NotImplementedError


class Loader:
    """Loads Weighty engines, and records which."""

    def __init__(self, **sizes: int) -> None:
        self.sizes, self.loaded = sizes, list[str]()

    def __call__(self, name: str, device: str | None = None, **options: Any) -> Any:
        if name not in self.sizes:
            raise CheckpointError(f"There is no {name}.")
        self.loaded.append(name)
        self.options = options
        return Weighty(name, self.sizes[name])


def test_an_engines_size_counts_each_tensor_once_wherever_it_is_held() -> None:
    engine = Weighty("a", 3)
    assert parameter_bytes(engine) == 3_000_000
    assert parameter_bytes(object()) == 0


def test_all_engines_are_unloaded_at_once_and_loaded_again_on_demand() -> None:
    load = Loader(a=4, b=4)
    engines = LoadedEngines("a", ("b",), budget_gb=1.0, load=load)
    held = weakref.ref(engines.get())
    engines.get("b")
    engines.unload()
    assert (engines.loaded, held()) == ((), None)
    engines.get()
    assert load.loaded == ["a", "b", "a"]


def test_the_least_recently_used_engine_leaves_when_the_budget_is_full() -> None:
    load = Loader(a=4, b=4, c=4)
    engines = LoadedEngines("a", ("b", "c"), budget_gb=0.009, load=load)
    first = engines.get()
    engines.get("b")
    assert engines.get("a") is first
    engines.get("c")
    assert engines.loaded == ("a", "c")
    engines.get("b")
    assert load.loaded == ["a", "b", "c", "b"]
    assert engines.loaded == ("c", "b")


def test_an_engine_in_use_stays_and_one_beyond_the_budget_is_loaded_alone() -> None:
    engines = LoadedEngines("a", ("big",), budget_gb=0.005, load=Loader(a=4, big=9))
    engines.get("a")
    engines.get("big", in_use=("",))
    assert engines.loaded == ("a", "big")
    engines.get("a")
    engines = LoadedEngines("a", ("big",), budget_gb=0.005, load=Loader(a=4, big=9))
    engines.get("a")
    engines.get("big")
    assert engines.loaded == ("big",)


def test_a_number_format_is_for_checkpoints_not_for_engines_that_choose_their_own() -> None:
    load = Loader(a=1, grounded=1)
    engines = LoadedEngines("a", ("grounded",), budget_gb=1.0, options={"dtype": "bfloat16"}, load=load)
    engines.get()
    assert load.options == {"dtype": "bfloat16"}
    engines.get("grounded")
    assert load.options == {}


def test_a_spec_that_declares_more_than_its_parameters_counts_as_it_says() -> None:
    engines = LoadedEngines("a", ("b",), budget_gb=1.0, load=Loader(b=1))
    engines.put("", Weighty("a", 1, declared_gb=0.9999))
    engines.get("b")
    assert engines.loaded == ("b",)


def test_a_name_that_is_not_offered_is_refused_and_nothing_is_imported() -> None:
    load = Loader(a=1)
    engines = LoadedEngines("a", (), budget_gb=1.0, load=load)
    with pytest.raises(InputError, match="antigravity:boom") as caught:
        engines.get("antigravity:boom")
    assert "TRAJSEG_ENGINES" in caught.value.remedy
    assert load.loaded == []


def test_without_a_setting_the_budget_is_a_share_of_this_machines_memory() -> None:
    import os

    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GB
    assert LoadedEngines("a", device="cpu").budget_gb == pytest.approx(memory / 2)


class FailingEngine(ScriptedEngine):
    """Fails at each clip, as an engine that runs out of memory does."""

    spec = EngineSpec(name="failing", model_version="failing")

    def segment(self, clip: Any, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        raise RuntimeError("out of memory at 0x7f")


class AdaptedEngine(ScriptedEngine):
    """Takes any adapter, and notes which."""

    spec = EngineSpec(name="adapted", model_version="adapted", adapts=True)

    def __init__(self) -> None:
        self.folders: list[Path | None] = []

    def adapted(self, folder: Path | None) -> AdaptedEngine:
        self.folders.append(folder)
        return self


@pytest.fixture
def two(tmp_path: Path, store: Store, tiny_clip: Any) -> Iterator[WorkerState]:
    """A worker with a sound engine, one that fails at each job, and one that cannot be loaded."""
    settings = Settings(
        data_dir=tmp_path / "data", media_dirs=(str(tiny_clip.path.parent),), label_studio_url="http://127.0.0.1:9",
        model="sound", engines=("failing", "missing"),
    )  # fmt: skip
    kept = WorkerState(settings, store, ScriptedEngine())
    kept.engines = LoadedEngines("sound", ("failing", "missing"), budget_gb=1.0, load=Loader())
    kept.engines.put("", ScriptedEngine())
    kept.engines.put("failing", FailingEngine())
    keep(kept)
    yield kept
    keep(None)


def labelled(store: Store, tiny_clip: Any, task: int, **params: str) -> Job:
    project = store.projects.upsert(1, "", "<View/>").id
    clip = str(tiny_clip.path)
    job, _ = store.jobs.add("prelabel", project, task, clip, "the red square", "prelabel", params)
    run(job.id)
    return store.jobs.get(job.id)


@pytest.mark.usefixtures("two")
def test_an_engine_that_fails_costs_its_own_jobs_and_not_those_of_the_other(store: Store, tiny_clip: Any) -> None:
    states = []
    for task, engine in enumerate(("", "failing", "", "missing", "")):
        job = labelled(store, tiny_clip, task, **({"engine": engine} if engine else {}))
        states.append(job.state)
        if engine:
            assert job.error
    assert states == ["done", "failed", "done", "failed", "done"]


@pytest.mark.parametrize("second", ["failing", "missing"])
@pytest.mark.usefixtures("two")
def test_a_second_engine_that_fails_costs_the_comparison_and_not_the_tracks(
    store: Store, tiny_clip: Any, second: str
) -> None:
    """The job failed, with the first engine's tracks done."""
    job = labelled(store, tiny_clip, 1, second=second)
    assert (job.state, job.error) == ("done", "")
    result = store.jobs.result(job.id)
    assert len(result.tracks) == 1
    (warning,) = job.notes.sentences(result)
    assert warning.startswith(f"not compared with {second}, which failed: ")
    assert "0x7f" not in warning


def test_the_adapter_of_another_project_in_a_versions_folder_is_refused(
    tmp_path: Path, store: Store, tiny_clip: Any
) -> None:
    settings = Settings(data_dir=tmp_path / "data", media_dirs=(str(tiny_clip.path.parent),))
    engine = AdaptedEngine()
    keep(WorkerState(settings, store, engine))
    project = store.projects.upsert(1, "", "<View/>").id
    training, _ = store.jobs.add("finetune", project, None, "", "", "finetune")
    version = store.versions.of_job(project, "adapted", training.id)
    store.versions.decide(version.id, True, "", "models/1", {})
    folder = settings.data_dir / "models" / "1"
    for task, (name, state) in enumerate([("adapted/project-2@1", "failed"), (version.name, "done")]):
        write_json(folder / "manifest.json", AdapterManifest(name, "adapted", "x").to_json())
        job = labelled(store, tiny_clip, task)
        assert job.state == state, job.error
        if state == "failed":
            assert "holds the adapter adapted/project-2@1" in job.error
    assert engine.folders == [folder]
    keep(None)


@pytest.fixture
def settings(tmp_path: Path, tiny_clip: Any, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("TRAJSEG_GROUNDED_CHECKPOINT", str(GROUNDED_TINY))
    monkeypatch.setenv("TRAJSEG_GROUNDED_CHOOSER", "none")
    return Settings(
        data_dir=tmp_path / "data",
        media_dirs=(str(tiny_clip.path.parent),),
        label_studio_url="http://127.0.0.1:9",
        max_key_frames=3,
        model="trajseg-tiny",
        engines=("grounded",),
        device="cpu",
    )


@pytest.fixture
def resident(settings: Settings, store: Store) -> Iterator[WorkerState]:
    kept = WorkerState.load(settings)
    keep(kept)
    yield kept
    keep(None)
    kept.store.close()


@pytest.mark.slow
def test_two_real_engines_do_the_jobs_that_name_them(resident: WorkerState, store: Store, tiny_clip: Any) -> None:
    offered = OfferedEngines.from_settings(resident.settings)
    project = resident.store.projects.upsert(1, "http://127.0.0.1:9", "<View/>")
    versions = []
    for engine in ("", "grounded"):
        chosen = offered.chosen(resident.store, project, engine)
        job, _ = resident.store.jobs.add(
            "prelabel", project.id, 7, str(tiny_clip.path), "the red square", "prelabel", chosen.params,
            model_version=chosen.model_version,
        )  # fmt: skip
        run(job.id)
        done = resident.store.jobs.get(job.id)
        assert (done.state, done.error) == ("done", "")
        assert done.model_version == chosen.model_version == resident.store.jobs.result(job.id).model_version
        versions.append(done.model_version)
    assert versions == ["trajseg-tiny", "grounded/grounded-tiny+none"]
    assert resident.engines.loaded == ("trajseg-tiny", "grounded")
    assert 0.0 < parameter_bytes(resident.engine) / GB < 0.2


def test_a_job_whose_engine_this_worker_lacks_fails_and_says_what_to_set(resident: WorkerState, tiny_clip: Any) -> None:
    job, _ = resident.store.jobs.add(
        "prelabel", None, None, str(tiny_clip.path), "the red square", "prelabel", {"engine": "sam3"}
    )
    run(job.id)
    failed = resident.store.jobs.get(job.id)
    assert failed.state == "failed"
    assert "sam3" in failed.error
    assert "TRAJSEG_ENGINES" in failed.remedy


@pytest.mark.slow
def test_two_engines_on_one_task_say_where_they_disagree(resident: WorkerState, tiny_clip: Any) -> None:
    from trajseg.evaluation.comparison import compare

    project = resident.store.projects.upsert(1, "http://127.0.0.1:9", "<View/>")
    jobs = {}
    for name, params in (("alone", {}), ("other", {"engine": "grounded"}), ("both", {"second": "grounded"})):
        job, _ = resident.store.jobs.add(
            "prelabel", project.id, 7, str(tiny_clip.path), "the red square", "prelabel", params, subject=name
        )
        run(job.id)
        jobs[name] = resident.store.jobs.get(job.id)
        assert (jobs[name].state, jobs[name].error) == ("done", "")
    results = {name: resident.store.jobs.result(job.id) for name, job in jobs.items()}
    alone, both = (results[name].to_json() for name in ("alone", "both"))
    assert alone["tracks"] == both["tracks"]
    expected = compare(results["alone"], results["other"])
    report = (jobs["both"].result or {})["report"]["comparison"]
    assert report == expected.to_json()
    worst = expected.frames_to_look_at(3)
    assert worst, "the two tiny engines should not agree everywhere on this clip"
    notes = jobs["both"].notes
    assert (notes.review[0].label, [frame.index for frame in notes.review[0].frames]) == ("both engines", worst)
    assert set(notes.first_frames()[: len(worst)]) == set(worst)
    assert notes.doubt is not None
    assert notes.doubt >= 1 - expected.mean - 1e-4
