"""Export of a project: writes the current tracks of each task in an export format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from backend.addresses import shown_address
from backend.fetch import FetchPolicy, fetched
from backend.settings import Settings
from backend.store import Store
from backend.store.standing import Standing, StandingTask
from trajseg.data.sides import Side
from trajseg.errors import InputError, ServiceError
from trajseg.files import content_hash
from trajseg.tracks.formats import LabelledClip, LabelledTrack, TrackFormat
from trajseg.tracks.formats.native import Native
from trajseg.video import Clip, open_clip
from trajseg.video.look import Look

Videos = Callable[[str], AbstractContextManager[Path]]
"""Opens a task's video, by its address, as a file; raises InputError or ServiceError if that fails."""


@dataclass
class ExportReport:
    """What an export wrote and what it left out.

    Attributes:
        clips: number written.
        skipped: (task or video, reason) for each one left out.
        unavailable: the first error of those left out because their video cannot be had now, though it may be later.
        verdicts: written tracks by what people made of them; see StandingTrack.verdict.
    """

    clips: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    unavailable: ServiceError | None = None
    verdicts: Counter[str] = field(default_factory=Counter)

    def skipped_text(self) -> str:
        """One line for each that was left out."""
        return "".join(f"{name}: {reason}\n" for name, reason in self.skipped)


class ProjectExport:
    """Exports the tasks of one project, one at a time.

    Args:
        project_id: the store's own.
        videos: needed if the format writes pictures; without it only masks are exported.
        annotated_only: leave out tasks that nobody has annotated.
    """

    def __init__(
        self, store: Store, project_id: int, videos: Videos | None = None, annotated_only: bool = False
    ) -> None:
        self.store, self.standing = store, Standing(store)
        self.project_id, self.videos, self.annotated_only = project_id, videos, annotated_only
        self.report = ExportReport()

    def __len__(self) -> int:
        """Number of tasks to export."""
        return len(self.standing.task_ids(self.project_id))

    def write(self, writer: TrackFormat) -> Iterator[int]:
        """Writes all tasks; yields the number processed after each. Call `writer.finish` afterwards.

        Raises:
            InputError: the format cannot write one of the clips.
        """
        for number, task in enumerate(self.standing.tasks(self.project_id), 1):
            if isinstance(task, InputError):
                self._skip(f"project {self.project_id}", task)
            elif task.annotation_id is not None or not self.annotated_only:
                self._write(writer, task)
            yield number

    def _write(self, writer: TrackFormat, task: StandingTask) -> None:
        with ExitStack() as stack:
            try:
                clip, identity = self._open(task, stack) if self.videos else (None, f"address:{task.video}")
                labelled = labelled_clip(task, clip, identity)
                if clip is not None and isinstance(writer, Native):
                    labelled = replace(labelled, look=Look.of(clip))
            except (InputError, ServiceError) as error:
                self._skip(f"task {task.task_id}", error)
                return
            if labelled.look is not None:
                labelled = replace(labelled, side=self._side(task, identity) or "")
            writer.add(labelled)
        self.report.clips += 1
        self.report.verdicts.update(held.verdict for held in task.tracks)

    def _side(self, task: StandingTask, identity: str) -> Side | None:
        """The side of a task's video. It is decided when the video is first exported with corrections."""
        sides = self.store.sides
        return (sides.of if task.annotation_id is None else sides.decide)(self.project_id, identity)

    def _open(self, task: StandingTask, stack: ExitStack) -> tuple[Clip, str]:
        assert self.videos is not None
        path = stack.enter_context(self.videos(task.video))
        found = content_hash(path)
        if task.video_hashes - {found}:
            raise InputError(
                f"The video {shown_address(task.video)} is another file than the one that was labelled.",
                "Put that file back, or import the new one as a new task and correct its prediction.",
            )
        return open_clip(path), f"sha256:{found}"

    def _skip(self, name: str, error: InputError | ServiceError) -> None:
        self.report.skipped.append((name, str(error)))
        if isinstance(error, ServiceError):
            self.report.unavailable = self.report.unavailable or error


def fetched_videos(settings: Settings) -> Videos:
    """Videos from the backend's fetcher, under the policy in the settings."""
    policy, cache = FetchPolicy.from_settings(settings), settings.data_dir / "downloads"
    return lambda address: fetched(address, cache, policy)


def export_corrections(
    store: Store, settings: Settings, project_id: int, out: Path, looked_at: Callable[[int, int], None] | None = None
) -> ExportReport:
    """Writes a project's annotated tasks as `corrections:OUT`, for training.

    Args:
        project_id: the store's own.
        out: new or empty.
        looked_at: called with (tasks processed, tasks in total); an exception from it ends the export.

    Raises:
        InputError: the folder is not empty.
    """
    exported = ProjectExport(store, project_id, fetched_videos(settings), annotated_only=True)
    tasks = len(exported)
    with Native(out) as writer:
        for done in exported.write(writer):
            if looked_at is not None:
                looked_at(done, tasks)
    return exported.report


def labelled_clip(task: StandingTask, clip: Clip | None, identity: str) -> LabelledClip:
    """A task in the form that export formats take.

    Raises:
        InputError: the video is not the one that was labelled.
    """
    return LabelledClip(
        f"task-{task.task_id}",
        task.width,
        task.height,
        task.fps,
        task.frame_count,
        tuple(LabelledTrack(held.track, held.trust, held.rejected, held.caption_trust) for held in task.tracks),
        task.expressions,
        task.video,
        identity,
        clip,
    )
