"""Statistics of a project: what corrections cost by model version, and what more of them would bring."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from backend.effort import Effort, EffortReader, VersionEffort, by_version
from backend.learning_curve import Advice, advice, curve, identities
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
    versions = store.versions.list(project.id)
    points = curve(versions)
    videos = _videos(store, project, corrected, identities(versions))
    return ProjectStats(project, by_version(tracks), len(corrected), advice(points, videos))


def _videos(store: Store, project: Project, tasks: Set[int], known: Mapping[int, str]) -> int:
    """How many videos these tasks are about.

    Two tasks share a video if they have the same address, if their files are equal, or if a training recognised one as
    a copy of the other.

    Args:
        known: identity of the video by task, from trainings.
    """
    query = select(Job.task_id, Job.video, Job.result["video_hash"].as_string()).where(
        Job.project_id == project.id, Job.kind == "prelabel"
    )
    names: dict[int, set[str]] = {task: {known.get(task, f"task {task}")} for task in tasks}
    with store.database.read() as session:
        for task, video, found in session.execute(query.order_by(Job.created_at)):
            if task in tasks:
                names[task] |= {f"address {video}"} | ({f"sha256:{found}"} if found else set())
    videos: dict[str, set[str]] = {}
    for shared in names.values():
        joined = shared.union(*(videos[name] for name in shared if name in videos))
        videos |= dict.fromkeys(joined, joined)
    return len({id(video) for video in videos.values()})


def _figures(effort: Effort) -> dict[str, Any]:
    return {
        "tracks": effort.tracks,
        "frames": effort.frames,
        "corrected_frames": effort.changed,
        "corrected_frames_per_track": round(effort.changed_per_track, 3),
        "minutes_per_track": round(effort.minutes_per_track, 3),
        "minutes_saved": round(effort.saved_minutes, 2),
    }
