"""Two engines on the same expressions: their answers, J&F clip by clip, and a picture of the largest differences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from trajseg.data.dataset import Dataset, Expression
from trajseg.engines.base import RunContext
from trajseg.evaluation.answers import Answer, ScoredClip
from trajseg.evaluation.evaluation import Evaluator
from trajseg.evaluation.report import answer_strip, save_strips
from trajseg.tracks import Result

if TYPE_CHECKING:
    from trajseg.engines.base import Engine


@dataclass(frozen=True)
class Measured:
    """An engine's answers on a data set."""

    answers: tuple[Answer, ...]

    @property
    def by_clip(self) -> Mapping[str, Sequence[float]]:
        """J&F of each expression, in the order asked, by clip name."""
        scores: dict[str, list[float]] = {}
        for answer in self.answers:
            scores.setdefault(answer.clip, []).append(answer.score.jf)
        return scores

    @property
    def scores(self) -> Mapping[str, float]:
        """J&F by clip name: the mean over its expressions."""
        return {clip: fmean(scores) for clip, scores in self.by_clip.items()}


def measure(
    engine: Engine,
    dataset: Dataset,
    progress: Callable[[int, int], None] | None = None,
    per_clip: int | None = 3,
    kept: Path | None = None,
) -> Measured:
    """Runs an engine on every clip of a data set.

    Args:
        progress: called with (clips done, clips in total); an exception from it ends the run.
        per_clip: most expressions per clip, always the same ones; None: all.
        kept: folder that keeps the engine's answers on this data set, so that an interrupted run resumes.
    """
    evaluator = _Evaluator(engine, dataset, per_clip=per_clip)
    evaluator.kept = kept
    evaluator.run(progress)
    return Measured(tuple(evaluator.answers))


class _Evaluator(Evaluator):
    """Asks what is not in the folder `kept`."""

    kept: Path | None = None
    _clip: tuple[int, dict[str, Any]] = (-1, {})

    def context(self, scored: ScoredClip) -> RunContext:
        """What depends on the clip alone is computed once for all its expressions."""
        if self._clip[0] != scored.number:
            self._clip = scored.number, {}
        return RunContext(kept=self._clip[1])

    def ask(self, scored: ScoredClip, asked: Expression) -> Answer:
        if self.kept is None:
            return super().ask(scored, asked)
        key = json.dumps([scored.number, scored.annotated.name, asked.text])
        path = self.kept / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
        if path.exists():
            return scored.answer(asked, Result.load(path), 0.0)
        answer = super().ask(scored, asked)
        answer.result.save(path)
        return answer


def draw_differences(dataset: Dataset, served: Measured, candidate: Measured, path: Path, count: int = 3) -> bool:
    """A PNG of the answers that improved and worsened most, each as drawn by both engines; False if none changed."""
    before = {(answer.clip, answer.asked.text): answer for answer in served.answers}
    after = {(answer.clip, answer.asked.text): answer for answer in candidate.answers}
    gains = {key: after[key].score.jf - before[key].score.jf for key in before.keys() & after.keys()}
    ordered = sorted(gains, key=lambda key: (-gains[key], key))
    better = [key for key in ordered if gains[key] > 0][:count]
    worse = [key for key in reversed(ordered) if gains[key] < 0][:count]
    strips = []
    for word, keys in (("better", better), ("worse", worse)):
        for key in keys:
            annotated = dataset[after[key].number]
            title = f"{word} by {abs(gains[key]):.2f}"
            strips.append(answer_strip(before[key], annotated, f"{title}, served"))
            strips.append(answer_strip(after[key], annotated, f"{title}, candidate"))
    if strips:
        save_strips(strips, path)
    return bool(strips)
