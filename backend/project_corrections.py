"""A project's corrections as a folder, for data sets named `corrections:NUMBER`.

trajseg finds `corrections_folder` through the entry point group `trajseg.corrections`: it does not import the backend.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path

import click
from sqlalchemy import func, select

from backend.exporting import export_corrections
from backend.settings import Settings, load_settings
from backend.store import Annotation, Job, Store
from backend.store.standing import Standing
from trajseg.data.corrections import intact
from trajseg.errors import InputError

KEPT_DAYS = 7.0
"""An export unused for this long is deleted when another one is written."""


def corrections_folder(number: int) -> Path:
    """The current corrections of Label Studio project `number`, in the format of `trajseg export`.

    The same folder as before if nothing has changed. Tasks whose videos are unavailable, or were replaced by other
    files, are listed on stderr.

    Raises:
        InputError: the project is not connected, or nobody has annotated any of its tasks.
    """
    settings = load_settings()
    store = Store(settings.store_url)
    try:
        store.migrate()
        return _exported(store, settings, store.projects.of_label_studio(number).id, number)
    finally:
        store.close()


def _exported(store: Store, settings: Settings, project_id: int, number: int) -> Path:
    state = _state(store, project_id)
    if not state:
        raise InputError(
            f"No task of project {number} has been annotated, so there are no corrections.",
            "Submit some tasks in Label Studio first.",
        )
    root = settings.data_dir / "datasets"
    folder = root / f"project-{project_id}-{hashlib.sha256(state.encode()).hexdigest()[:16]}"
    if (folder / "manifest.json").is_file():
        if intact(folder):
            os.utime(folder)
            return folder
        shutil.rmtree(folder)
    root.mkdir(parents=True, exist_ok=True)
    _forget(root)
    partial = root / f".{folder.name}.{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    report = export_corrections(store, settings, project_id, partial)
    for name, reason in report.skipped:
        click.echo(f"left out: {name}: {reason}", err=True)
    if report.skipped:
        # What is missing today may be available tomorrow, so this is not kept as the complete export.
        folder = folder.with_name(f"{folder.name}-{int(time.time())}")
    try:
        os.rename(partial, folder)
    except OSError:
        # Another process was faster.
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _state(store: Store, project_id: int) -> str:
    """Changes whenever the project's standing tracks do; empty if nothing is annotated."""
    if not Standing(store).annotations(project_id):
        return ""
    # All annotations, because the deciding one of a task inherits from others; all jobs, because refinements change
    # tracks, and caption jobs their captions.
    annotations = select(Annotation.annotation_id, Annotation.version, Annotation.withdrawn_at).where(
        Annotation.project_id == project_id
    )
    jobs = select(func.count(), func.max(Job.finished_at)).where(Job.project_id == project_id, Job.state == "done")
    with store.database.read() as session:
        rows = session.execute(annotations.order_by(Annotation.annotation_id)).all()
        # Earlier versions wrote no sides: those exports are not used again.
        return repr(("sides", rows, session.execute(jobs).one()))


def _forget(root: Path) -> None:
    for folder in root.iterdir():
        if time.time() - folder.stat().st_mtime > KEPT_DAYS * 86400:
            shutil.rmtree(folder, ignore_errors=True)
