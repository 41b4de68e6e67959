"""Evaluation on the shapes world: the general metrics, plus captions by word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

from rich.table import Table

from trajseg.data.dataset import AnnotatedClip, Expression
from trajseg.engines.capabilities import captioner
from trajseg.evaluation import evaluation as general
from trajseg.evaluation.answers import Answer, ScoredClip
from trajseg.evaluation.evaluation import COLUMNS, Evaluator
from trajseg.evaluation.metrics import mean
from trajseg.shapes.dataset import SceneClip, ShapesDataset, instruction_of
from trajseg.shapes.evaluation.captions import PARTS, ObjectCaption, caption_figures, describe, words_of
from trajseg.shapes.evaluation.contradictions import CaptionComparer, CaptionComparison, compare, contradiction_figures
from trajseg.shapes.world.language import CATEGORY, KINDS, parse_caption
from trajseg.shapes.world.scenes import Split

if TYPE_CHECKING:
    from trajseg.engines.base import Engine

CATEGORIES = ("referring", "reasoning", "several", "none")


@dataclass(frozen=True, kw_only=True)
class ShapesAnswer(Answer):
    """An answer about a scene.

    Args:
        seed: of the scene.
        named: whether a track's caption has the size, colour, shape and motion of the target; None unless there is one
            target.
    """

    seed: int
    named: bool | None

    def to_json(self) -> dict[str, Any]:
        """As for any answer, with the scene's seed, and targets as indices into its objects."""
        figures = super().to_json()
        del figures["clip"]
        return {"seed": self.seed, **figures, **asdict(instruction_of(self.asked)), "named": self.named}


@dataclass
class Evaluation(general.Evaluation):
    """All answers of one run, the engine's caption of each true track and, if requested, how it compares captions with
    instructions.

    height: rows of the clips; None if they differ.
    """

    LAST_LINE: ClassVar[Sequence[str]] = (
        "referring_jf",
        "reasoning_jf",
        "none_accuracy",
        "several_jf",
        "caption_accuracy",
        "avg_iou",
        "avg_iou_truth",
        "seconds_per_clip",
    )
    COLUMNS: ClassVar[dict[str, str]] = {
        key: heading
        for known, title in COLUMNS.items()
        for key, heading in (
            [(known, title), ("named_right", "named right")] if known == "j_of_right" else [(known, title)]
        )
    }

    height: int | None = None
    described: Sequence[ObjectCaption] = field(default_factory=list)
    compared: Sequence[CaptionComparison] = field(default_factory=list)

    def headline(self) -> dict[str, float | None]:
        """The summary: means over instructions; None where there are none."""
        general_figures = super().headline()
        captions = caption_figures(self.described)
        return {
            "referring_jf": mean(a.score.jf for a in self.of(category="referring")),
            "reasoning_jf": mean(a.score.jf for a in self.of(category="reasoning")),
            "none_accuracy": general_figures["none_accuracy"],
            "several_jf": general_figures["several_jf"],
            "caption_accuracy": captions["right"] if captions else None,
            "right_object": general_figures["right_object"],
            "named_right": mean(_named(a) for a in self.answers),
            **{
                name: general_figures[name]
                for name in ("ghosts", "missed", "avg_iou", "avg_iou_truth", "seconds_per_clip", "flops_per_clip")
            },
        }

    def groups(self) -> list[tuple[str, Sequence[str]]]:
        """Categories and kinds in a fixed order."""
        return [(category, [k for k in KINDS if CATEGORY[k] == category]) for category in CATEGORIES]

    def figures(self, answers: Sequence[Answer]) -> dict[str, float | None]:
        """The metrics of a table row."""
        return {**super().figures(answers), "named_right": mean(_named(a) for a in answers)}

    def more_tables(self) -> list[Table]:
        """Tables of captions and contradictions, if there are any."""
        tables = []
        if captions := caption_figures(self.described):
            parts = Table("objects", "all right", *PARTS, "seconds", title="Captions of true tracks")
            parts.add_row(
                f"{captions['objects']:.0f}",
                *(f"{captions[name]:.3f}" for name in ("right", *PARTS, "seconds")),
            )
            tables.append(parts)
        if contradictions := contradiction_figures(self.compared):
            rows = Table("figure", "value", title="Captions classified as contradictions")
            for name, value in contradictions.items():
                rows.add_row(name, f"{value:g}" if name == "captions" else f"{value:.3f}")
            tables.append(rows)
        return tables

    def to_json(self) -> dict[str, Any]:
        """All metrics, and every answer without its masks."""
        return {
            **super().to_json(),
            "height": self.height,
            "captions": caption_figures(self.described),
            "contradictions": contradiction_figures(self.compared),
            "described": [d.to_json() for d in self.described],
            "compared": [asdict(c) for c in self.compared],
        }


class ShapesEvaluator(Evaluator):
    """Also has the engine caption each clip's true tracks and compare captions with instructions."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.described: list[ObjectCaption] = []
        self.compared: list[CaptionComparison] = []
        self._captioner = captioner(self.engine)

    def ask(self, scored: ScoredClip, asked: Expression) -> ShapesAnswer:
        """The engine's scored answer to one instruction."""
        return shapes_answer(super().ask(scored, asked), cast(SceneClip, scored.annotated))

    def visit_clip(self, annotated: AnnotatedClip) -> None:
        """Captions of the clip's objects, and their agreement with its instructions."""
        clip = cast(SceneClip, annotated)
        scene, ids = clip.drawn_from()
        if self.contradictions and self.engine.spec.compares:
            for asked in clip.expressions:
                if asked.targets:
                    self.compared += compare(
                        cast(CaptionComparer, self.engine), scene, clip.clip, instruction_of(asked)
                    )
        if self._captioner is not None:
            self.described += describe(self._captioner, scene, clip.clip, ids)

    def evaluation(self) -> Evaluation:
        """Summary of the run."""
        return Evaluation(
            data=self.dataset.name,
            model_version=self.engine.spec.model_version,
            clips=len(self.dataset),
            answers=self.answers,
            height=getattr(self.dataset, "height", None),
            described=self.described,
            compared=self.compared,
        )


def shapes_answer(answer: Answer, clip: SceneClip) -> ShapesAnswer:
    """The answer with its score from the scene's ground truth."""
    scene, _ = clip.drawn_from()
    named = None
    if len(answer.asked.targets) == 1:
        truth = words_of(scene.objects[int(answer.asked.targets[0])])
        named = any(parse_caption(track.caption) == truth for track in answer.result.tracks)
    return ShapesAnswer(**vars(answer), seed=scene.seed, named=named)


def evaluate(
    engine: Engine,
    *,
    split: Split = "test",
    count: int = 50,
    seed: int = 0,
    height: int = 240,
    per_kind: int = 1,
    flops: bool = False,
    contradictions: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluates `engine` on `count` rendered clips; see ShapesDataset and trajseg.evaluation.evaluate."""
    dataset = ShapesDataset(split, count, seed, height, per_kind)
    found = general.evaluate(engine, dataset, flops=flops, contradictions=contradictions, progress=progress)
    return cast(Evaluation, found)


def _named(answer: Answer) -> bool | None:
    return answer.named if isinstance(answer, ShapesAnswer) else None
