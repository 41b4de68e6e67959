"""Evaluation: runs an engine on every expression of a data set, and scores its answers by category and kind."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from trajseg.data.dataset import AnnotatedClip, Dataset, Expression
from trajseg.engines.base import PLAIN, RunContext
from trajseg.errors import InputError
from trajseg.evaluation.answers import Answer, ScoredClip
from trajseg.evaluation.flops import count_flops
from trajseg.evaluation.metrics import mean

if TYPE_CHECKING:
    from rich.table import Table

    from trajseg.engines.base import Engine

COLUMNS = {
    "count": "asked",
    "jf": "J&F",
    "j": "J",
    "f": "F",
    "matched_jf": "J&F matched",
    "right_object": "right object",
    "j_of_right": "J of right",
    "ghosts": "ghosts",
    "missed": "missed",
    "empty": "no mask",
    "avg_iou": "steady",
    "avg_iou_truth": "truth steady",
    "seconds": "seconds",
    "gflops": "GFLOPs",
}
"""Keys of a row of `Evaluation.table`, with their printed headings."""


@dataclass
class Evaluation:
    """All answers of one run.

    Args:
        data: the data set's name.
        model_version: of the engine.
        clips: how many were evaluated.
    """

    LAST_LINE: ClassVar[Sequence[str]] = (
        "jf",
        "j",
        "f",
        "none_accuracy",
        "several_jf",
        "right_object",
        "ghosts",
        "missed",
        "avg_iou",
        "avg_iou_truth",
        "seconds_per_clip",
    )
    """Overall results that the command prints last, as one JSON object."""
    COLUMNS: ClassVar[dict[str, str]] = COLUMNS

    data: str
    model_version: str
    clips: int
    answers: Sequence[Answer] = field(default_factory=list)

    def of(self, *, kind: str | None = None, category: str | None = None) -> list[Answer]:
        """The answers of a kind, a category, or both."""
        return [
            a
            for a in self.answers
            if (kind is None or a.asked.kind == kind) and (category is None or a.asked.category == category)
        ]

    def headline(self) -> dict[str, float | None]:
        """The overall results: means over expressions, None where there are none."""
        meant = [a for a in self.answers if a.asked.targets]
        return {
            "jf": mean(a.score.jf for a in meant),
            "j": mean(a.score.j for a in meant),
            "f": mean(a.score.f for a in meant),
            "none_accuracy": mean(a.empty for a in self.answers if not a.asked.targets),
            "several_jf": mean(a.score.jf for a in meant if len(a.asked.targets) > 1),
            "right_object": mean(a.right_object for a in meant),
            "ghosts": mean(a.presence.ghosts for a in meant),
            "missed": mean(a.presence.missed for a in meant),
            "avg_iou": mean(a.steadiness.mean for a in meant),
            "avg_iou_truth": mean(a.truth_steadiness.mean for a in meant),
            "seconds_per_clip": mean(a.seconds for a in self.answers),
            "flops_per_clip": mean(a.flops for a in self.answers),
        }

    def groups(self) -> list[tuple[str, Sequence[str]]]:
        """Categories and their kinds in the order of the table; by default, that of the answers."""
        kinds: dict[str, list[str]] = {}
        for answer in self.answers:
            own = kinds.setdefault(answer.asked.category, [])
            if answer.asked.kind and answer.asked.kind not in own:
                own.append(answer.asked.kind)
        return list(kinds.items())

    def table(self) -> list[dict[str, Any]]:
        """One row per category and kind; None where a value does not apply."""
        rows = []
        for category, kinds in self.groups():
            rows.append(self._row(category, None, self.of(category=category)))
            if len(kinds) > 1:
                rows += [self._row(category, kind, self.of(kind=kind, category=category)) for kind in kinds]
        return [row for row in rows if row["count"]]

    def _row(self, category: str, kind: str | None, answers: Sequence[Answer]) -> dict[str, Any]:
        return {"category": category, "kind": kind, "count": len(answers), **self.figures(answers)}

    def figures(self, answers: Sequence[Answer]) -> dict[str, float | None]:
        """The values of a row."""
        right = [a for a in answers if a.right_object]
        meant = [a for a in answers if a.asked.targets]
        return {
            "j": mean(a.score.j for a in meant),
            "f": mean(a.score.f for a in meant),
            "jf": mean(a.score.jf for a in meant),
            "matched_jf": mean(a.matched.jf for a in meant if a.matched),
            "right_object": mean(a.right_object for a in answers),
            "j_of_right": mean(a.score.j for a in right),
            "ghosts": mean(a.presence.ghosts for a in meant),
            "missed": mean(a.presence.missed for a in meant),
            "empty": mean(a.empty for a in answers),
            "avg_iou": mean(a.steadiness.mean for a in meant),
            "avg_iou_present": mean(a.steadiness.mean_present for a in meant),
            "avg_iou_truth": mean(a.truth_steadiness.mean for a in meant),
            "avg_iou_truth_present": mean(a.truth_steadiness.mean_present for a in meant),
            "empty_pairs": mean(a.steadiness.empty_share for a in meant),
            "seconds": mean(a.seconds for a in answers),
            "gflops": mean(a.flops / 1e9 for a in answers if a.flops is not None),
        }

    def more_tables(self) -> list[Table]:
        """Tables to print below the main one."""
        return []

    def to_json(self) -> dict[str, Any]:
        """All results, and every answer without its masks."""
        return {
            "data": self.data,
            "model_version": self.model_version,
            "clips": self.clips,
            "headline": self.headline(),
            "table": self.table(),
            "answers": [a.to_json() for a in self.answers],
        }


class Evaluator:
    """Runs an engine on every clip of a data set. A data set that knows more than masks provides a subclass.

    Args:
        engine: any.
        dataset: any.
        flops: also count floating-point operations, for one expression per clip.
        contradictions: also compare captions with expressions, if the data set supports it.
        per_clip: most expressions per clip, chosen by the clip's name; None: all.
    """

    def __init__(
        self,
        engine: Engine,
        dataset: Dataset,
        *,
        flops: bool = False,
        contradictions: bool = False,
        per_clip: int | None = None,
    ) -> None:
        self.engine, self.dataset, self.per_clip = engine, dataset, per_clip
        self.flops, self.contradictions = flops, contradictions
        self.answers: list[Answer] = []

    def run(self, progress: Callable[[int, int], None] | None = None) -> Evaluation:
        """Runs everything, clip by clip; `progress` is called with (clips done, clips in total)."""
        total = len(self.dataset)
        for number in range(total):
            annotated = self.dataset[number]
            scored = ScoredClip(number, annotated)
            expressions = self._chosen(annotated)
            for place, asked in enumerate(expressions):
                answer = self.ask(scored, asked)
                # One per clip, of varying kind: counting takes another, slower run.
                if self.flops and place == number % len(expressions):
                    answer = replace(answer, flops=self._count(annotated, asked))
                self.answers.append(answer)
            self.visit_clip(annotated)
            if progress:
                progress(number + 1, total)
        return self.evaluation()

    def _chosen(self, annotated: AnnotatedClip) -> Sequence[Expression]:
        if self.per_clip is None or len(annotated.expressions) <= self.per_clip:
            return annotated.expressions
        return random.Random(annotated.name).sample(annotated.expressions, self.per_clip)

    def ask(self, scored: ScoredClip, asked: Expression) -> Answer:
        """The engine's answer to one expression."""
        start = time.perf_counter()
        result = self.engine.segment(scored.annotated.clip, asked.text, self.context(scored)).result()
        return scored.answer(asked, result, time.perf_counter() - start)

    def context(self, scored: ScoredClip) -> RunContext:
        """What the engine gets besides a clip's expression. It keeps nothing, so that all answers take their time."""
        return PLAIN

    def visit_clip(self, annotated: AnnotatedClip) -> None:
        """Measures further properties known to the data set; nothing by default."""
        if self.contradictions:
            raise InputError(
                f"The data set {self.dataset.name} has no captions to compare.", "Leave out --contradictions."
            )

    def evaluation(self) -> Evaluation:
        """The result of the run."""
        return Evaluation(self.dataset.name, self.engine.spec.model_version, len(self.dataset), self.answers)

    def _count(self, annotated: AnnotatedClip, asked: Expression) -> float | None:
        return count_flops(lambda: self.engine.segment(annotated.clip, asked.text).result())


def evaluate(
    engine: Engine,
    dataset: Dataset,
    *,
    flops: bool = False,
    contradictions: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Runs `engine` on every expression of `dataset`, with the data set's own Evaluator if it names one.

    Means are over frames first, then over expressions.
    """
    evaluator = Evaluator
    if dataset.evaluator:
        module, _, name = dataset.evaluator.partition(":")
        evaluator = getattr(import_module(module), name)
    return evaluator(engine, dataset, flops=flops, contradictions=contradictions).run(progress)
