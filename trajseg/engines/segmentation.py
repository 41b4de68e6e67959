"""A segmentation: an engine's answer, and its masks one frame at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from trajseg.engines.base import EngineSpec, FrameMasks, ObjectMask, TrackedObject
from trajseg.errors import TrajSegError
from trajseg.progress import Progress
from trajseg.tracks import MaskTrack, Result, TrackFrame
from trajseg.video import Clip

Finish = Callable[[list[MaskTrack], Mapping[str, Sequence[ObjectMask]]], None]
"""Changes whole tracks in place, once every frame is there. Pure: the same frames give the same tracks.

Its second argument has each track's masks by uid, in frame order.
"""


class Segmentation:
    """An answer and its masks. Iterate over it to get each frame as it is done, then call `result()`.

    Args:
        spec: of the engine.
        clip: every frame of it gets masks.
        instruction: the instruction.
        objects: that it refers to; empty if there is no such object.
        frames: yields the frames that are not in `done`, each once; never called without objects.
        answer: the engine's answer.
        done: frames drawn by an earlier run; see RunContext.done_of.
        finish: steps that need the whole track, such as hysteresis.
        timings: seconds by stage so far.
        considered: tracks that the engine considered and rejected, for people to see; empty for most engines.
    """

    def __init__(
        self,
        *,
        spec: EngineSpec,
        clip: Clip,
        instruction: str,
        objects: Sequence[TrackedObject],
        frames: Iterable[FrameMasks] = (),
        answer: str = "",
        done: Sequence[FrameMasks] = (),
        finish: Finish | None = None,
        timings: Mapping[str, float] | None = None,
        considered: Sequence[MaskTrack] = (),
    ) -> None:
        self.spec, self.clip, self.instruction = spec, clip, instruction
        self.objects, self.answer = tuple(objects), answer
        self.timings = dict(timings or {})
        self.considered = tuple(considered)
        self._frames, self._finish = iter(frames if self.objects else ()), finish
        self._drawn: dict[int, FrameMasks] = {frame.index: frame for frame in done}

    @property
    def frames_done(self) -> int:
        """How many frames have masks, including those of an earlier run."""
        return len(self._drawn)

    def __iter__(self) -> Iterator[FrameMasks]:
        """The remaining frames, as they are done."""
        started = time.perf_counter()
        for frame in self._frames:
            self._check(frame)
            self._drawn[frame.index] = frame
            self.timings["masks"] = self.timings.get("masks", 0.0) + time.perf_counter() - started
            yield frame
            started = time.perf_counter()

    def _check(self, frame: FrameMasks) -> None:
        """Raises TrajSegError if an engine yields a frame that violates the contract."""
        name, uids = self.spec.name, {thing.uid for thing in self.objects}
        if frame.index in self._drawn or not 0 <= frame.index < len(self.clip):
            raise TrajSegError(
                f"The engine {name} yielded frame {frame.index} of {len(self.clip)} (counted from 0), "
                "which is done already or not in the clip.",
                "Its `segment` must yield each frame that is not in `context.done` once.",
            )
        if set(frame.masks) != uids:
            raise TrajSegError(
                f"The engine {name} yielded masks of {sorted(frame.masks)} in frame {frame.index}, "
                f"its objects are {sorted(uids)}.",
                "Each frame must have an ObjectMask for each object.",
            )

    def result(self, progress: Progress | None = None) -> Result:
        """All tracks, after drawing the remaining frames.

        Raises:
            TrajSegError: the engine broke its contract: frames are missing or duplicated.
            VideoError: the video can no longer be read; or anything that `progress` raises.
        """
        total = len(self.clip)
        for _ in self:
            if progress:
                progress(len(self._drawn), total)
        if progress and not self.objects:
            progress(total, total)
        clip = self.clip
        return Result(
            video=str(clip.path),
            fps=clip.fps,
            width=clip.width,
            height=clip.height,
            frame_count=total,
            instruction=self.instruction,
            answer=self.answer,
            model_version=self.spec.model_version,
            tracks=self._tracks() if self.objects else [],
            timings=dict(self.timings),
        )

    def _tracks(self) -> list[MaskTrack]:
        """The finished tracks; those without any mask are left out."""
        count, times = len(self.clip), self.clip.frame_map.times
        missing = [index for index in range(count) if index not in self._drawn]
        if missing:
            raise TrajSegError(
                f"The engine {self.spec.name} drew no masks for {len(missing)} of {count} frames, "
                f"first frame {missing[0]} (counted from 0).",
                "Its `segment` must yield every frame that is not in `context.done`.",
            )
        masks = {thing.uid: [self._drawn[index].masks[thing.uid] for index in range(count)] for thing in self.objects}
        tracks = [
            MaskTrack(
                uid=thing.uid,
                label=thing.label,
                caption=thing.caption,
                score=0.0,
                frames=[TrackFrame(i, times[i], mask.score, mask.rle) for i, mask in enumerate(masks[thing.uid])],
                instruction=self.instruction,
            )
            for thing in self.objects
        ]
        if self._finish:
            self._finish(tracks, masks)
        for track in tracks:
            shown = [frame.score for frame in track.frames if frame.rle]
            track.score = sum(shown) / len(shown) if shown else 0.0
        return [track for track in tracks if track.present]
