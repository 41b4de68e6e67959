"""Comparison: what a person changed in an annotation, compared with the prediction it came from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from backend.label_studio.forms import Prediction, Task
from backend.label_studio.incoming import corrections
from backend.label_studio.incoming.annotation import from_annotation, shown_frames
from backend.label_studio.incoming.corrections import Predicted, Source
from backend.label_studio.outgoing.superseding import current_version, meta_of
from backend.store import (
    Change,
    Job,
    Store,
    UnknownJobError,
    adoptions,
)
from backend.store.corrections import EXTENDED, VOUCHED
from backend.store.models import Adoption
from label_config import LabelConfig
from trajseg.errors import TaskError
from trajseg.tracks import MaskTrack, Result
from trajseg.video import FrameMap


class AnnotationComparison:
    """Compares annotations with the stored predictions they came from. Reads only the store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def base_job(
        self,
        config: LabelConfig,
        project_id: int,
        task: Task,
        parent: Prediction | None,
        annotation: Mapping[str, Any],
    ) -> Job | None:
        """The job whose prediction an annotation came from; if that is deleted, its own regions name it.

        Regions that were copied from a task with another video name a job whose tracks do not belong here.
        """
        for results in (parent.result if parent else [], annotation.get("result") or []):
            for source in corrections.sources(results, config.control).values():
                if (job := self.job(source.job_id)) and is_about(job, config, project_id, task.id, task.data):
                    return job
        # A prediction that found nothing has only text regions.
        for item in parent.result if parent else []:
            job = self.job(str(meta_of(item).get("job_id") or ""))
            if job is not None and is_about(job, config, project_id, task.id, task.data):
                return job
        return None

    def job(self, job_id: str) -> Job | None:
        """The stored job; None if it is unknown, since an annotation may name any."""
        try:
            return self.store.jobs.get(job_id)
        except UnknownJobError:
            return None

    def changes(
        self,
        config: LabelConfig,
        project_id: int,
        task: Task,
        parent: Prediction | None,
        base: Job | None,
        annotation: Mapping[str, Any],
        adopted: Sequence[Adoption],
    ) -> tuple[list[Change], dict[str, str]]:
        """Changes to the tracks, and changed captions by label.

        Raises TaskError if the annotation does not fit the task.
        """
        indices = shown_frames(task.data)
        shown = self._tracks(base)
        frame_map = FrameMap(tuple(frame.time for frame in shown.tracks[0].frames), shown.fps) if shown else None
        if config.view == "box" and frame_map is None:
            raise TaskError(
                "The annotation's boxes do not come from a trajseg prediction, so their frames are not known.",
                "Request a prediction first and correct that one.",
            )
        rate = config.rate_for(task.data)
        left = from_annotation(annotation, config, indices, frame_map, rate)
        before = Predicted()
        if parent is not None:
            before.content = from_annotation(parent.result, config, indices, frame_map, rate)
            before.sources = corrections.sources(parent.result, config.control, current_version(parent.model_version))
        else:
            before.content.captions = self._delivered_captions(base)
        # An adoption writes no captions, so they are always compared with those of the prediction.
        captions = corrections.caption_changes(left, before)
        suggested = self._suggested(config, project_id, task, annotation, {one.job_id for one in adopted})
        _add_suggestions(before, suggested, indices)
        size = (shown.width, shown.height) if shown else None
        standing = adoptions.newest(adopted)
        if standing is None:
            corrections.apply_events(left, before)
            return corrections.changes(left, before, size), captions
        rows = self.store.corrections.of_annotation(standing.project_id, standing.annotation_id)
        painted = {(row.label, row.frame_index): row for row in rows if row.kind in VOUCHED}
        earlier, given = adoptions.before(standing), adoptions.written(standing)
        stood, adopted_tracks = (from_annotation(one, config, indices, frame_map, rate) for one in (earlier, given))
        before = corrections.after_adoption(left, before, stood, adopted_tracks, painted)
        corrections.apply_events(left, before)
        # What was adopted has filled in frames that a person had put inside a range: that still stands.
        extended = [row for row in rows if row.kind == EXTENDED and row.frame_index in left.events.get(row.label, ())]
        left.extended |= {(row.label, row.frame_index) for row in extended}
        refined = [item for item in given if (item.get("meta") or {}).get("job_id") == standing.job_id]
        job = self.job(standing.job_id)
        before.sources |= corrections.sources(refined, config.control, job.model_version if job else "")
        return corrections.with_sources(corrections.changes(left, before, size), painted), captions

    def _delivered_captions(self, base: Job | None) -> dict[str, str]:
        """By label, captions of a deleted prediction: from its job, or from a job that captioned its tracks."""
        if base is None:
            return {}
        described = [
            job
            for job in self.store.jobs.newest("done", base.project_id, task_id=base.task_id)
            if job.kind == "caption" and job.asked.earlier_job_id == base.id
        ]
        results = [result for job in (base, *described[::-1]) if (result := self._tracks(job))]
        return {track.label: track.caption for result in results for track in result.tracks if track.caption}

    def _suggested(
        self,
        config: LabelConfig,
        project_id: int,
        task: Task,
        annotation: Mapping[str, Any],
        adopted: Collection[str],
    ) -> dict[str, tuple[Job, MaskTrack]]:
        """By label, suggestions accepted on the page: they come from a job, but from no stored prediction.

        Args:
            adopted: jobs whose tracks trajseg itself wrote into the annotation.
        """
        found: dict[str, tuple[Job, MaskTrack]] = {}
        if config.view == "box":
            return found
        for label, source in corrections.sources(annotation.get("result") or [], config.control).items():
            job = self.job(source.job_id)
            if job is None or job.id in adopted or not is_about(job, config, project_id, task.id, task.data):
                continue
            result = self._tracks(job)
            track = next((one for one in result.tracks if one.uid == source.track_uid), None) if result else None
            if track is not None:
                found[label] = job, track
        return found

    def _tracks(self, job: Job | None) -> Result | None:
        """A job's result if it has tracks to compare with."""
        if job is None or job.state != "done":
            return None
        result = self.store.jobs.result(job.id)
        return result if result.tracks else None


def is_about(job: Job, config: LabelConfig, project_id: int, task_id: int | None, data: Mapping[str, Any]) -> bool:
    """Whether a job belongs to a task, or at least to its video: projects are copied, with all annotations.

    An annotation may name any job: copied from another task, it would bring along the tracks of another video.
    """
    video = config.video_of(data)
    return (job.project_id, job.task_id) == (project_id, task_id) or job.video == str(video or "").strip()


def _add_suggestions(before: Predicted, suggested: Mapping[str, tuple[Job, MaskTrack]], indices: Sequence[int]) -> None:
    shown = {label for label, _ in before.content.masks}
    for label, (job, track) in suggested.items():
        if label in shown:
            continue
        before.sources[label] = Source(job.id, track.uid, job.model_version)
        for index in indices:
            if index < len(track) and track.frames[index].rle is not None:
                before.content.masks[label, index] = track.mask(index)
