"""Fine-tune: trains an adapter on a project's corrections, compares it with the serving version, and may promote it.

The round runs in a child process (trajseg.training.child), so the resident model is not touched. As soon as another
job is waiting, or the worker gets SIGTERM, the child saves its state and exits, and this job returns to its queue,
which has the lowest priority: one worker on one GPU labels first and trains when it is idle. The next run resumes from
the saved state.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from backend.exporting import export_corrections
from backend.private import private_folder
from backend.retention import drop_trainings
from backend.service.training import relabelling
from backend.store.models import ModelVersion
from backend.store.params import FinetuneParams
from backend.store.versions import PROMOTED
from trajseg.checkpoints.base_identity import BaseIdentity
from trajseg.checkpoints.folders import checkpoint_folder
from trajseg.checkpoints.manifest import NAME as MANIFEST
from trajseg.checkpoints.manifest import read_manifest
from trajseg.errors import CancelledError, InputError, ServiceError, StoreError, TrajSegError
from trajseg.files import not_writable, write_json
from trajseg.machine import memory_gb
from trajseg.training.child import BUSY, DECISION, ERROR, FAILED, NOT_STORED, PROGRESS, STOP, STOPPED, is_running
from worker.child import spawn, stop
from worker.kinds.base import JobContext, JobOutcome, PreemptedError

log = logging.getLogger("trajseg.worker")

POLL_SECONDS = 0.5
SAVING_SECONDS = 120.0
"""How long the child may take to finish its step and save its state."""
HASTY_SECONDS = 3.0
"""The same if this process has to exit at once: enough for a small model. `trajseg serve` kills it after 5 s."""
RUN_SHARE = 0.9
"""A training that takes longer than this share of TRAJSEG_JOB_TIMEOUT_SECONDS continues in another run."""
LAST_LINES = 5
LEFT_OUT = "left-out.json"
"""In a training's folder: tasks whose corrections were not exported, with the reason."""


def do(context: JobContext[FinetuneParams]) -> JobOutcome:
    """One round of learning; see trajseg.training.round."""
    job, settings, base = context.job, context.settings, context.engine.spec
    if job.project_id is None:
        raise InputError("A training needs a project.", "Use trajseg finetune --project N.")
    if not base.adapts:
        raise InputError(f"{base.model_version} cannot be fine-tuned.", "Serve a TrajSeg checkpoint to train.")
    drop_trainings(context.store, settings)
    work = settings.data_dir / "training" / job.id
    version = context.store.versions.of_job(job.project_id, base.model_version, job.id)
    if not version.folder:
        version = _decided(context, version, work)
    # Otherwise decided by an earlier run of this job. Its adapter may be serving, so it is not trained again.
    shutil.rmtree(work, ignore_errors=True)
    return _outcome(context, version)


def _decided(context: JobContext[FinetuneParams], version: ModelVersion, work: Path) -> ModelVersion:
    """Trains and compares a version; returns it with the gate's decision."""
    if is_running(work):
        # Of a worker that hangs or was cut off from the store.
        raise _busy()
    target = Path("models") / f"project-{version.project_id}" / str(version.number)
    try:
        with _stored_in(context.settings.data_dir):
            _train(context, version, work, context.settings.data_dir / target)
        decision = json.loads((work / DECISION).read_text(encoding="utf-8"))
        published = (context.settings.data_dir / target / MANIFEST).exists()
        manifest = read_manifest(context.settings.data_dir / target).to_json() if published else {"decision": decision}
        folder = str(target) if published else ""
        manifest["left_out"] = json.loads((work / LEFT_OUT).read_text("utf-8")) if (work / LEFT_OUT).exists() else []
        version = context.store.versions.decide(
            version.id, decision["promoted"], decision["reason"], folder, manifest, context.token
        )
    except CancelledError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    log.info("%s: %s", version.name, version.reason)
    return version


def _train(context: JobContext[FinetuneParams], version: ModelVersion, work: Path, target: Path) -> None:
    """Runs or resumes the round of a version in its own process."""
    corrections = work / "corrections"
    if not (corrections / "manifest.json").exists():
        # Exported once: a resumed training must see the same data.
        shutil.rmtree(work, ignore_errors=True)
        private_folder(work)
        write_json(work / LEFT_OUT, _export(context, version.project_id, corrections))
    task = _task(context, version, corrections, work, target)
    if _begun_with(work) not in (None, task["recipe"]):
        log.warning("%s: its recipe has changed since the training began, which starts over", version.name)
        shutil.rmtree(work / "run", ignore_errors=True)
    write_json(work / "task.json", task)
    if memory_gb(context.settings.device)[1] == "the GPU":
        # A large model does not fit a second time, to be trained. Whatever job comes next loads it again.
        context.unload()
    _run(context, work)


def _export(context: JobContext[FinetuneParams], project_id: int, corrections: Path) -> list[tuple[str, str]]:
    """Writes the project's corrections; returns tasks that had to be left out, with the reason.

    Raises ServiceError if a video is unavailable now: training waits for it.
    """
    report = export_corrections(
        context.store, context.settings, project_id, corrections, lambda _done, _all: context.alive()
    )
    if report.unavailable is not None:
        shutil.rmtree(corrections, ignore_errors=True)
        raise report.unavailable
    for name, reason in report.skipped:
        log.warning("%s is not trained on: %s", name, reason)
    return report.skipped


def _outcome(context: JobContext[FinetuneParams], version: ModelVersion) -> JobOutcome:
    """The outcome of a training whose version has been decided on."""
    relabel = version.state == PROMOTED and context.settings.relabel_after_promotion
    follow_up = relabelling(context.store, version.project_id, version.name, context.params.engine) if relabel else ()
    report = {"version": version.name, "folder": version.folder, "decision": version.manifest["decision"]}
    return JobOutcome(follow_up=follow_up, report=report)


def _task(
    context: JobContext[FinetuneParams], version: ModelVersion, corrections: Path, work: Path, target: Path
) -> dict[str, Any]:
    """The child's task. The recipe depends on the base: a small model's on a CPU, or FULL_SIZE."""
    from trajseg.training.finetune import recipe_for
    from trajseg.training.round_task import RoundTask, task_to_json

    settings = context.settings
    served = _comparable(context, version)
    task = RoundTask(
        checkpoint=context.params.engine or settings.model,
        corrections=str(corrections.resolve()),
        work=str((work / "run").resolve()),
        target=str(target.resolve()),
        model_version=version.name,
        served=None if served is None else str((settings.data_dir / served.folder).resolve()),
        served_version=version.base if served is None else served.name,
        replay=settings.replay_data or None,
        base_set=settings.base_data or None,
        recipe=recipe_for(
            context.params.engine or settings.model, context.params.steps or settings.finetune_steps or None
        ),
        seed=context.params.seed,
        device=settings.device or None,
        dtype=settings.dtype,
        four_bit=settings.four_bit,
        cache=str((settings.data_dir / "models" / "base-scores").resolve()),
    )
    # In the form in which it is read back from the file, with lists for tuples.
    form: dict[str, Any] = json.loads(json.dumps(task_to_json(task)))
    return form


def _comparable(context: JobContext[FinetuneParams], version: ModelVersion) -> ModelVersion | None:
    """The serving version; None if that is the base, or the base was replaced by another one since."""
    served = context.store.versions.served(context.job.project_id, version.base)
    if served is None:
        return None
    base = BaseIdentity.of(checkpoint_folder(context.params.engine or context.settings.model))
    if base.fits(read_manifest(context.settings.data_dir / served.folder)):
        return served
    log.warning("%s was trained on another %s: the new version is compared with the base", served.name, version.base)
    return None


def _begun_with(work: Path) -> Any:
    """The recipe of an earlier run of this job, as stored in its task; None before the first run."""
    try:
        return json.loads((work / "task.json").read_text(encoding="utf-8"))["recipe"]
    except FileNotFoundError:
        return None


def _run(context: JobContext[FinetuneParams], work: Path) -> None:
    """Runs the child until it is done.

    Raises:
        PreemptedError: other jobs are waiting, or the worker exits; the child has saved its state.
        ServiceError: the child cannot write to the disk, or another run's child has not ended yet.
        StoreError: the store does not answer for longer than a lease; the child has saved its state.
        TrajSegError: the child failed.
    """
    for name in (STOP, ERROR, DECISION):
        (work / name).unlink(missing_ok=True)
    lease = work / f"lease-{context.token}"
    lease.touch()
    task, patience = (work / "task.json").resolve(), context.settings.stale_after_seconds
    with (work / "child.log").open("ab") as output:
        child = spawn(
            # -P: a folder called `trajseg` in the current directory must not be taken for this package.
            [sys.executable, "-P", "-m", "trajseg.training.child", str(task), str(lease.resolve()), str(patience)],
            output=output,
        )
        try:
            _watch(context, child, work, lease)
        finally:
            if child.poll() is None:
                (work / STOP).touch()
                with suppress(subprocess.TimeoutExpired):
                    child.wait(HASTY_SECONDS)
            stop(child, 1.0)
            lease.unlink(missing_ok=True)
    if child.returncode == STOPPED:
        raise PreemptedError("The training has saved its state and yields.")
    if child.returncode == BUSY:
        raise _busy()
    if child.returncode == NOT_STORED:
        raise _not_stored(context.settings.data_dir, _reported(work).get("error", "the disk is full or read-only"))
    if child.returncode == FAILED:
        form = _reported(work)
        raise TrajSegError(form["error"], form["remedy"])
    if child.returncode:
        lines = (work / "child.log").read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        raise TrajSegError(
            f"The training ended with exit code {child.returncode}: {' | '.join(lines)}",
            "A negative code is a signal; -9 often means too little memory. A retry resumes from the last saved state.",
        )


def _watch(context: JobContext[FinetuneParams], child: subprocess.Popen[bytes], work: Path, lease: Path) -> None:
    """Passes on the child's progress until it ends, and stops it when it has to yield.

    A store that does not answer for a moment, such as a database that restarts, does not end the training: the run
    keeps its lease for as long.
    """
    answered, away = time.monotonic(), False
    # Before RQ ends the run, which would fail the job.
    due = answered + RUN_SHARE * context.settings.job_timeout_seconds
    while child.poll() is None:
        time.sleep(POLL_SECONDS)
        try:
            _report_progress(context, work)
            yields = context.preempted() or time.monotonic() > due
        except StoreError as error:
            if not away:
                log.warning("job %s: the training goes on for now: %s", context.job.id, error)
            away = True
            if time.monotonic() - answered < context.settings.stale_after_seconds:
                continue
            (work / STOP).touch()
            _wait(child)
            raise
        answered, away = time.monotonic(), False
        lease.touch()
        # At once: training uses only the worker's idle time.
        if yields and not (work / STOP).exists():
            (work / STOP).touch()
            _wait(child)


def _reported(work: Path) -> dict[str, str]:
    """What the child says about its error; empty if it could not be written."""
    try:
        form: dict[str, str] = json.loads((work / ERROR).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return form


@contextmanager
def _stored_in(folder: Path) -> Iterator[None]:
    """Raises ServiceError if the disk cannot be written: the job waits until it can."""
    try:
        yield
    except OSError as error:
        if not (reason := not_writable(error)):
            raise
        raise _not_stored(folder, reason) from error


def _busy() -> ServiceError:
    return ServiceError(
        "An earlier run of this training has not ended yet.", "It ends by itself, and this one resumes."
    )


def _not_stored(folder: Path, reason: str) -> ServiceError:
    return ServiceError(
        f"The training cannot be stored in {folder}: {reason}.",
        "Free some disk, or move TRAJSEG_DATA_DIR. It resumes from the last saved state; the serving version stays.",
    )


def _wait(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(SAVING_SECONDS)
    except subprocess.TimeoutExpired:
        log.warning("the training did not stop within %.0f s; it resumes from its last saved state", SAVING_SECONDS)
        child.kill()
        child.wait()
        child.returncode = STOPPED


def _report_progress(context: JobContext[FinetuneParams], work: Path) -> None:
    try:
        form = json.loads((work / PROGRESS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        context.alive()
        return
    context.progress(form["done"], form["total"])
