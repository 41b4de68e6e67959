"""The pool of tasks that people can correct: how doubtful each prediction is, and the task's features."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import cv2
import numpy as np
from sqlalchemy import select

from backend.settings import Settings
from backend.store import Job, Store, Track
from backend.store.notes import JobNotes
from backend.store.standing import Standing
from trajseg.correction.task_strategy import TaskFacts
from trajseg.tracks import rle
from trajseg.video.spacing import end_to_end

WORD_BINS, HUE_BINS = 12, 8
LOOKS = 3
"""Most pictures per task, and frames per track, that are examined."""
UNKNOWN_DOUBT = 0.5
"""The doubt of a prediction for which none was measured."""
JOBS_AT_ONCE = 50


class TaskPool:
    """Facts about a project's predicted tasks. The features of a job's tracks are computed once and kept.

    Features are the appearance of its pictures (if stored on this machine), where its tracks are and how they move,
    and the words of its instruction.
    """

    def __init__(self, store: Store, settings: Settings, project_id: int) -> None:
        self.store, self.settings, self.project_id = store, settings, project_id
        self._looks: dict[str, np.ndarray] = {}

    def tasks(self) -> tuple[list[TaskFacts], list[TaskFacts]]:
        """(unannotated tasks, annotated tasks), by task."""
        annotated = {task for _, task in Standing(self.store).annotations(self.project_id)}
        newest = self._newest()
        for chunk in _chunks([job for jobs in newest.values() for job in jobs if job.id not in self._looks]):
            self._look(chunk)
        ids = list(newest)
        rows = [_mean([self._looks[job.id] for job in newest[task]]) for task in ids]
        table = _filled(np.stack(rows)) if rows else np.zeros((0, 0))
        facts = [
            TaskFacts(task, max(_doubt(job) for job in newest[task]), table[place]) for place, task in enumerate(ids)
        ]
        return [task for task in facts if task.task_id not in annotated], [
            task for task in facts if task.task_id in annotated
        ]

    def _newest(self) -> dict[int, list[Job]]:
        """The newest prediction of each instruction, by task; see Versions.weakest_first."""
        query = (
            select(Job)
            .where(Job.project_id == self.project_id, Job.kind == "prelabel", Job.state == "done")
            .order_by(Job.finished_at, Job.id)
        )
        newest: dict[int, dict[str, Job]] = {}
        with self.store.database.read() as session:
            jobs = list(session.scalars(query))
        for job in self.store.versions.weakest_first(self.project_id, jobs):
            if job.task_id is not None:
                newest.setdefault(job.task_id, {})[job.instruction] = job
        return {task: list(newest[task].values()) for task in sorted(newest)}

    def _look(self, jobs: Sequence[Job]) -> None:
        tracks: dict[str, list[Track]] = {job.id: [] for job in jobs}
        query = select(Track).where(Track.job_id.in_(list(tracks)))
        with self.store.database.read() as session:
            for track in session.scalars(query):
                tracks[track.job_id].append(track)
        for job in jobs:
            pictures = sorted((self.settings.media_dir / job.id).glob("*.jpg"))
            self._looks[job.id] = np.concatenate([_colours(pictures), _motion(tracks[job.id]), _words(job.instruction)])


def _doubt(job: Job) -> float:
    doubt = JobNotes.of(job.result).doubt
    return UNKNOWN_DOUBT if doubt is None else doubt


def _colours(pictures: Sequence[Path]) -> np.ndarray:
    """Colour and texture of some pictures, [6 + HUE_BINS + 1]; NaN without pictures."""
    found = []
    for path in _some(pictures):
        # Read with NumPy, since OpenCV cannot open every path.
        picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_REDUCED_COLOR_4)
        if picture is None:
            continue
        lab = cv2.cvtColor(picture, cv2.COLOR_BGR2LAB).reshape(-1, 3) / 255
        hsv = cv2.cvtColor(picture, cv2.COLOR_BGR2HSV).reshape(-1, 3)
        hue = np.bincount(hsv[:, 0] * HUE_BINS // 180, hsv[:, 1] / 255, HUE_BINS) / len(hsv)
        edges = np.abs(cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.CV_32F)).mean() / 255
        found.append(np.concatenate([lab.mean(axis=0), lab.std(axis=0), hue, [edges]]))
    return np.mean(found, axis=0) if found else np.full(7 + HUE_BINS, np.nan)


def _motion(tracks: Sequence[Track]) -> np.ndarray:
    """Number, duration, size, position and displacement of the tracks, [7]."""
    found = []
    for track in tracks:
        shown = [frame["rle"] for frame in track.frames if frame["rle"]]
        boxes = [box for code in _some(shown) if (box := _box(code)) is not None]
        if boxes:
            places = np.array([(x, y) for x, y, _ in boxes])
            moved = float(np.linalg.norm(places[-1] - places[0]))
            size = np.mean([area for _, _, area in boxes])
            found.append([len(shown) / len(track.frames), np.sqrt(size), *places.mean(axis=0), moved, track.score])
    return np.concatenate([[min(len(tracks), 8) / 8], np.mean(found, axis=0) if found else np.zeros(6)])


def _box(code: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """Centre and area of a mask, as fractions of the picture's sides and area."""
    height, width = code["size"]
    checked = rle.checked(code, height, width)
    box = rle.box(checked)
    if box is None:
        return None
    x, y, w, h = box
    return (x + w / 2) / width, (y + h / 2) / height, rle.area(checked) / (width * height)


def _words(instruction: str) -> np.ndarray:
    """The words of the instruction, hashed and counted, [WORD_BINS]."""
    words = re.findall(r"\w+", instruction.casefold())
    return np.bincount([crc32(word.encode()) % WORD_BINS for word in words], minlength=WORD_BINS) / max(len(words), 1)


def _mean(rows: Sequence[np.ndarray]) -> np.ndarray:
    """The column means over the known values."""
    table = np.stack(rows)
    known = ~np.isnan(table)
    sums = np.where(known, table, 0).sum(axis=0)
    return np.where(known.any(axis=0), sums / np.maximum(known.sum(axis=0), 1), np.nan)


def _filled(table: np.ndarray) -> np.ndarray:
    """Fills unknown values with the mean over the other tasks, or 0 if none has a value."""
    known = ~np.isnan(table)
    means = np.where(known, table, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    filled: np.ndarray = np.where(known, table, means)
    return filled


def _some(things: Sequence[Any]) -> list[Any]:
    """At most LOOKS of them, evenly spread."""
    return [things[place] for place in end_to_end(len(things), LOOKS)]


def _chunks(jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
    for start in range(0, len(jobs), JOBS_AT_ONCE):
        yield jobs[start : start + JOBS_AT_ONCE]
