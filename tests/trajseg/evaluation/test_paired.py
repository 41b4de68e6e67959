"""Measuring two engines on the same expressions: an interrupted measurement resumes with the same scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.scripted import ScriptedEngine
from trajseg.data.dataset import AnnotatedClip, AnnotatedObject, Dataset, Expression
from trajseg.engines.base import PLAIN, RunContext
from trajseg.engines.segmentation import Segmentation
from trajseg.evaluation.paired import measure
from trajseg.tracks import rle
from trajseg.video import Clip, open_clip


class CountingEngine(ScriptedEngine):
    """Counts its answers."""

    count = 0

    def segment(self, clip: Clip | str | Path, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        self.count += 1
        return super().segment(clip, instruction, context)


class TwoClips(Dataset):
    """The tiny clip, twice, with three instructions."""

    name = "two clips"

    def __init__(self, tiny_clip: Any) -> None:
        red = AnnotatedObject("t1", {index: rle.encode(mask) for index, mask in enumerate(tiny_clip.red)})
        asked = tuple(Expression(text, ("t1",)) for text in ("the red square", "the blue square", "a blue or red one"))
        self.clips = [AnnotatedClip(name, open_clip(tiny_clip.path), (red,), asked) for name in ("one", "two")]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, number: int) -> AnnotatedClip:
        return self.clips[number]


def test_an_interrupted_measurement_resumes_after_its_last_answer(tiny_clip: Any, tmp_path: Path) -> None:
    dataset = TwoClips(tiny_clip)
    whole = measure(ScriptedEngine(), dataset, per_clip=3)

    def interrupt(done: int, _total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    engine = CountingEngine()
    with pytest.raises(KeyboardInterrupt):
        measure(engine, dataset, interrupt, 3, tmp_path)
    assert engine.count == 3
    resumed = measure(engine, dataset, None, 3, tmp_path)
    assert engine.count == 6, "what was answered before is not asked again"
    assert resumed.by_clip == whole.by_clip
    for answer, expected in zip(resumed.answers, whole.answers, strict=True):
        assert answer.result.to_json() == expected.result.to_json()


def test_an_engine_may_keep_what_depends_on_a_clip_until_the_next_one(tiny_clip: Any) -> None:
    asked: list[int] = []

    class KeepingEngine(ScriptedEngine):
        def segment(self, clip: Clip | str | Path, instruction: str, context: RunContext = PLAIN) -> Segmentation:
            assert context.kept is not None
            asked.append(context.kept.setdefault("asked", 0))
            context.kept["asked"] += 1
            return super().segment(clip, instruction, context)

    measure(KeepingEngine(), TwoClips(tiny_clip))
    assert asked == [0, 1, 2, 0, 1, 2]
