"""The contract of an engine; subclass it with the engine, and pytest runs it: see docs/extending.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from trajseg.engines.base import Engine, EngineSpec, FrameMasks, RunContext
from trajseg.errors import CancelledError, InstructionError
from trajseg.tracks.rle import iou
from trajseg.video import Clip, open_clip

METHODS = {"captions": "caption", "compares": "contradictions", "marks": "mark", "propagates": "propagator"}
"""Methods required by the capabilities of a spec."""


class EngineContract:
    """Subclasses define the fixture `engine` and an instruction with a target in the tiny clip of tests/conftest.py."""

    meant: ClassVar[str] = "the red square"
    """An instruction that means at least one object of the clip."""
    absent: ClassVar[str] = "the green square"
    """An instruction without a target in the clip; used only if `spec.none`."""
    resumed_iou: ClassVar[float] = 0.9
    """Minimum mean IoU between a resumed and an uninterrupted run, over objects and the frames of the second run."""

    @pytest.fixture
    def engine(self) -> Engine:
        raise NotImplementedError("Give the engine to check.")

    @pytest.fixture
    def video(self, tiny_clip: Any) -> Path:
        """A video in which `meant` has a target; default: the tiny clip."""
        path: Path = tiny_clip.path
        return path

    @pytest.fixture
    def clip(self, video: Path) -> Clip:
        return open_clip(video)

    def test_its_spec_says_what_it_has_methods_for(self, engine: Engine) -> None:
        spec = engine.spec
        assert isinstance(spec, EngineSpec)
        assert spec == engine.spec
        for capability, method in METHODS.items():
            if getattr(spec, capability):
                assert callable(getattr(engine, method, None)), f"{capability} without the method {method}"

    def test_every_frame_is_yielded_once_with_every_object(self, engine: Engine, clip: Clip) -> None:
        segmentation = engine.segment(clip, self.meant)
        frames = list(segmentation)
        assert sorted(frame.index for frame in frames) == list(range(len(clip)))
        uids = [thing.uid for thing in segmentation.objects]
        assert uids
        for frame in frames:
            assert set(frame.masks) == set(uids)
            for mask in frame.masks.values():
                assert 0 <= mask.score <= 1
                assert mask.rle is None or mask.rle["size"] == [clip.height, clip.width]

    def test_objects_are_numbered_in_the_order_of_the_answer(self, engine: Engine, clip: Clip) -> None:
        objects = engine.segment(clip, self.meant).objects
        assert [thing.uid for thing in objects] == [f"t{number + 1}" for number in range(len(objects))]
        assert [thing.label for thing in objects] == [f"track-{number + 1}" for number in range(len(objects))]

    def test_the_result_has_a_track_for_each_object_that_shows(self, engine: Engine, clip: Clip) -> None:
        segmentation = engine.segment(clip, self.meant)
        result = segmentation.result()
        assert result.model_version == engine.spec.model_version
        assert result.tracks
        assert {track.uid for track in result.tracks} <= {thing.uid for thing in segmentation.objects}
        assert all(len(track) == len(clip) and track.present for track in result.tracks)

    def test_the_same_instruction_gives_the_same_result(self, engine: Engine, clip: Clip) -> None:
        first, again = (engine.segment(clip, self.meant).result().to_json() for _ in range(2))
        assert first == again

    def test_what_is_kept_between_instructions_about_a_clip_changes_no_answer(self, engine: Engine, clip: Clip) -> None:
        kept: dict[str, Any] = {}
        for instruction in (self.absent, self.meant):
            fresh = engine.segment(clip, instruction).result()
            assert engine.segment(clip, instruction, RunContext(kept=kept)).result().to_json() == fresh.to_json()

    def test_frames_survive_their_json_form(self, engine: Engine, clip: Clip) -> None:
        frame = next(iter(engine.segment(clip, self.meant)))
        assert FrameMasks.from_json(frame.to_json(), height=clip.height, width=clip.width) == frame

    @pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
    def test_a_run_resumes_where_an_earlier_one_ended(self, engine: Engine, clip: Clip, share: float) -> None:
        whole = engine.segment(clip, self.meant)
        frames = list(whole)
        done = frames[: round(share * len(frames))]
        resumed = engine.segment(clip, self.meant, RunContext(done=done))
        assert [frame.index for frame in resumed] == [frame.index for frame in frames[len(done) :]]
        drawn, undisturbed = resumed.result().tracks, whole.result().tracks
        assert [track.uid for track in drawn] == [track.uid for track in undisturbed]
        pairs = [
            (a.rle, b.rle)
            for one, other in zip(drawn, undisturbed, strict=True)
            for a, b in zip(one.frames, other.frames, strict=True)
            if a.index not in {frame.index for frame in done}
        ]
        assert sum(iou(a, b) for a, b in pairs) >= self.resumed_iou * len(pairs)

    def test_frames_of_other_objects_are_drawn_again(self, engine: Engine, clip: Clip) -> None:
        stranger = FrameMasks(0, {"somebody else": next(iter(engine.segment(clip, self.meant))).masks["t1"]})
        resumed = engine.segment(clip, self.meant, RunContext(done=[stranger]))
        assert len(list(resumed)) == len(clip)

    def test_where_nothing_is_meant_there_is_no_track(self, engine: Engine, clip: Clip) -> None:
        if not engine.spec.none:
            pytest.skip("This engine always answers with an object.")
        steps: list[tuple[int, int]] = []
        result = engine.segment(clip, self.absent).result(lambda done, total: steps.append((done, total)))
        assert result.tracks == []
        assert steps[-1] == (len(clip), len(clip))

    def test_an_exception_of_progress_ends_the_run(self, engine: Engine, clip: Clip) -> None:
        def cancel(done: int, total: int) -> None:
            raise CancelledError("Cancelled by the test.")

        with pytest.raises(CancelledError):
            engine.segment(clip, self.meant, RunContext(progress=cancel)).result(cancel)

    def test_progress_reaches_the_end_and_never_falls(self, engine: Engine, clip: Clip) -> None:
        steps: list[tuple[int, int]] = []
        engine.segment(clip, self.meant).result(lambda done, total: steps.append((done, total)))
        assert steps == sorted(steps)
        assert steps[-1] == (len(clip), len(clip))

    @pytest.mark.parametrize("instruction", ["", "  ", "x" * 1001])
    def test_a_bad_instruction_is_refused(self, engine: Engine, clip: Clip, instruction: str) -> None:
        with pytest.raises(InstructionError):
            engine.segment(clip, instruction)
