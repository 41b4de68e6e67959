"""Statistics of a project: what corrections cost by model version, and what more of them would bring."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from backend.effort import Effort, EffortReader, VersionEffort, by_version
from backend.learning_curve import Advice, advice, curve
from backend.store import Job, Project, Store
from backend.store.standing import Standing


@dataclass(frozen=True)
class ProjectStats:
    """The statistics of one project, for the report's page and `trajseg stats`.

    Args:
        versions: model versions that people corrected, earliest first.
        corrected: tasks that people have annotated.
        advice: whether another training is worthwhile.
    """

    project: Project
    versions: list[VersionEffort]
    corrected: int
    advice: Advice

    @property
    def most_minutes(self) -> float:
        """Minutes per track of the costliest version."""
        return max((version.effort.minutes_per_track for version in self.versions), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """For programs; minutes are estimates, see backend.effort."""
        return {
            "project": self.project.label_studio_id,
            "annotated_tasks": self.corrected,
            "versions": [
                {
                    "model_version": version.model_version,
                    "tasks": version.tasks,
                    "first": version.first.isoformat(),
                    "last": version.last.isoformat(),
                    **_figures(version.effort),
                    "weeks": {monday.isoformat(): _figures(effort) for monday, effort in version.weeks.items()},
                }
                for version in self.versions
            ],
            "more_videos_until_training": self.advice.videos,
            "advice": self.advice.words,
        }


def project_stats(store: Store, project: Project, reader: EffortReader | None = None) -> ProjectStats:
    """The current statistics of a project."""
    corrected = {task for _, task in Standing(store).annotations(project.id)}
    tracks = (reader or EffortReader()).tracks(store, project.id)
    points = curve(store.versions.list(project.id))
    videos = _videos(store, project, corrected)
    return ProjectStats(project, by_version(tracks), len(corrected), advice(points, videos))


def _videos(store: Store, project: Project, tasks: Set[int]) -> int:
    """How many videos these tasks are about; several tasks may share one."""
    query = select(Job.task_id, Job.video).where(Job.project_id == project.id, Job.kind == "prelabel")
    with store.database.read() as session:
        video_of = {task: video for task, video in session.execute(query) if task in tasks}
    return len({video_of.get(task, task) for task in tasks})


def _figures(effort: Effort) -> dict[str, Any]:
    return {
        "tracks": effort.tracks,
        "frames": effort.frames,
        "corrected_frames": effort.changed,
        "corrected_frames_per_track": round(effort.changed_per_track, 3),
        "minutes_per_track": round(effort.minutes_per_track, 3),
        "minutes_saved": round(effort.saved_minutes, 2),
    }
