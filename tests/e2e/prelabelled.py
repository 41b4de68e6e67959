"""The store's data about a prelabelled task, in the page's terms: label, frame, mask or box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.label_studio.outgoing.views import assign_labels
from label_config import LabelConfig, parse
from trajseg.tracks import Result


@dataclass(frozen=True)
class Prelabelled:
    """One task after its prediction has arrived.

    Attributes:
        task: as stored in Label Studio.
        prediction: the only prediction.
        result: the tracks in the store.
        config: of the project.
    """

    task: dict[str, Any]
    prediction: dict[str, Any]
    result: Result
    config: LabelConfig

    @property
    def id(self) -> int:
        return int(self.task["id"])

    @property
    def frame_index(self) -> list[int]:
        """0-based index in the clip of each picture on the page."""
        return list(self.task["data"]["frame_index"])

    @property
    def labels(self) -> list[str]:
        """The label of each track."""
        return assign_labels(self.result.tracks, self.config)

    def masks(self) -> dict[tuple[str, int], np.ndarray]:
        """bool [H, W] by (label, 0-based frame index) of everything that the page should show."""
        return {
            (label, index): track.mask(index)
            for label, track in zip(self.labels, self.result.tracks, strict=True)
            for index in self.frame_index
            if track.frames[index].rle is not None
        }

    def boxes(self) -> dict[tuple[str, int], tuple[float, float, float, float]]:
        """x, y, width, height in percent of the picture by (label, 0-based frame index), for all frames."""
        width, height = self.result.width, self.result.height
        return {
            (label, index): (100 * box[0] / width, 100 * box[1] / height, 100 * box[2] / width, 100 * box[3] / height)
            for label, track in zip(self.labels, self.result.tracks, strict=True)
            for index in range(self.result.frame_count)
            if (box := track.box(index)) is not None
        }


def prelabelled(studio: Any, trajseg: Any, project: Any, number: int) -> Prelabelled:
    """Task `number` of a project once its job is done and its prediction has arrived."""
    task_id, question = project.tasks[number], project.questions[number]
    job = trajseg.job_of(task_id, question.instruction)
    [task] = [task for task in studio.tasks(project.id) if task["id"] == task_id]
    [prediction] = studio.predictions(task_id)
    config = parse(studio.project(project.id)["label_config"])
    return Prelabelled(task, prediction, trajseg.result(job["id"]), config)
