"""Resuming: frames are stored as they are drawn; the next run after a crash or preemption continues from there."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import zlib
from dataclasses import dataclass
from typing import Any

from trajseg.engines.base import FrameMasks, RunContext
from trajseg.errors import InputError
from trajseg.files import content_hash
from trajseg.progress import Progress
from trajseg.tracks import Result
from trajseg.video import Clip
from worker.kinds.base import JobContext, PreemptedError

log = logging.getLogger("trajseg.worker")

KEPT_EVERY_SECONDS = 1.0
"""Most drawing time, besides the current frame, that is lost when a worker dies."""


@dataclass(frozen=True)
class Part:
    """Which of a job's instructions is being drawn: `number` of `count`, from 0."""

    number: int = 0
    count: int = 1

    def progress(self, report: Progress, frames: int) -> Progress:
        """Converts the progress of this part to that of the whole job, with `frames` per part."""
        return lambda done, _: report(self.number * frames + done, self.count * frames)


def segmented(context: JobContext[Any], instruction: str, part: Part | None = None) -> Result:
    """The tracks of the objects that an instruction refers to in the job's clip.

    Frames drawn by an earlier run of the job are reused if the engine, the clip's content and the instruction are still
    the same. Between frames the run yields to jobs with higher priority, unless the engine cannot resume from stored
    frames.

    Args:
        part: if a job has several instructions.

    Raises:
        PreemptedError: other jobs go first; the frames drawn so far are stored.
    """
    part, frames = part or Part(), len(context.clip)
    progress = part.progress(context.progress, frames)
    kept = KeptFrames(context, part)
    done = kept.read()
    segmentation = context.engine.segment(context.clip, instruction, RunContext(done=done, progress=progress))
    resumes = not done or segmentation.frames_done > 0
    if not resumes:
        log.info("job %s starts over: the engine now finds other objects", context.job.id)
        kept.clear()
    elif done:
        log.info("job %s resumes after %d of %d frames", context.job.id, len(done), len(context.clip))
    try:
        for frame in segmentation:
            kept.add(frame)
            progress(segmentation.frames_done, frames)
            over, total = part.number * frames + segmentation.frames_done, part.count * frames
            if resumes and not kept.full and context.preempted(over, total):
                kept.flush()
                raise PreemptedError(f"it yields after {over} of {total} frames.")
    except SystemExit:
        # The worker is stopping; the job returns to the queue.
        kept.flush()
        raise
    # The next part starts with all of this one stored.
    if part.number + 1 < part.count:
        kept.flush()
    return segmentation.result(progress)


class KeptFrames:
    """Writes the frames of one run to the store, a chunk at a time.

    Attributes:
        full: the store accepts no more frames of this job; a later run would draw the rest again.
    """

    def __init__(self, context: JobContext[Any], part: Part) -> None:
        self._context, self._part = context, part
        self._chunk: list[dict[str, Any]] = []
        self._due = time.monotonic() + KEPT_EVERY_SECONDS
        self._key = ""
        self.full = False

    @property
    def key(self) -> str:
        """What the frames depend on. Reads the whole file, so it is only used if there is something to store."""
        if not self._key:
            clip, spec = self._context.clip, self._context.engine.spec
            parts = [spec.name, spec.model_version, self._asked(), content_hash(clip.path), *_shape(clip)]
            self._key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return self._key

    def _asked(self) -> str:
        asked = self._context.job.instruction.strip()
        return json.dumps([asked, self._context.job.params.get("instructions", [])])

    def read(self) -> list[FrameMasks]:
        """Frames of an earlier run from which this one can continue."""
        store, job, clip = self._context.store, self._context.job, self._context.clip
        if not store.partial.any(job.id):
            return []
        try:
            frames = [
                FrameMasks.from_json(frame, height=clip.height, width=clip.width)
                for frame in store.partial.read(job.id, self.key)
                if frame.get("part", 0) == self._part.number
            ]
            indices = {frame.index for frame in frames}
            if len(indices) < len(frames) or any(index >= len(clip) for index in indices):
                raise InputError(
                    "A frame is stored twice, or is not in the clip.", "The job starts again at the first frame."
                )
        except (InputError, ValueError, zlib.error) as error:
            # Also what another version of trajseg wrote, or a damaged row: it is no more than a head start.
            log.warning("job %s starts over: %s", job.id, error)
            self.clear()
            return []
        return frames

    def add(self, frame: FrameMasks) -> None:
        """Stores a frame; raises CancelledError or StaleRunError."""
        if self.full:
            return
        self._chunk.append({**frame.to_json(), "part": self._part.number})
        if time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Writes what is not in the store yet; raises as `add` does."""
        if self._chunk:
            context = self._context
            self.full = not context.store.partial.add(context.job.id, context.token, self.key, self._chunk)
        self._chunk = []
        self._due = time.monotonic() + KEPT_EVERY_SECONDS

    def clear(self) -> None:
        """Drops the frames of an earlier run; raises as `add` does."""
        self._context.store.partial.clear(self._context.job.id, self._context.token)


def _shape(clip: Clip) -> tuple[int, int, int]:
    return len(clip), clip.height, clip.width
