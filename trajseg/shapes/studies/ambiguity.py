"""Ambiguous instructions: which object is segmented if two fit, and do the model's scores show the ambiguity?"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trajseg.engines.trajseg import VideoSegmenter
from trajseg.evaluation.answers import masks_of
from trajseg.evaluation.metrics import mean
from trajseg.shapes.dataset import write_scene
from trajseg.shapes.studies.cells import Cells
from trajseg.shapes.studies.plan import SEEDS_APART, Plan
from trajseg.shapes.studies.table import Table
from trajseg.shapes.world.facts import Facts
from trajseg.shapes.world.phrases import ATTRIBUTE, COLOUR_AFTER
from trajseg.shapes.world.questions import descriptions, meaning
from trajseg.shapes.world.scenes import Scene, Split, sample_scene
from trajseg.tracks import Result
from trajseg.tracks.region_similarity import region_similarity

CLIPS = 24
"""Default number per group."""
SPLIT: Split = "val"
"""It has the wording and the colour-shape pairs of training, so that only the ambiguity is new."""
ASKED = 2
"""Ambiguous instructions per clip, at most, and as many unambiguous ones."""
MEANT = 0.5
"""Minimum J (mean over the frames with either mask) for a track to belong to the object it overlaps most."""

Outcome = Literal["one", "several", "other", "nothing", "unclear"]
OUTCOMES: dict[str, str] = {
    "one": "one that fits",
    "several": "several that fit",
    "other": "one that does not fit",
    "nothing": "nothing",
    "unclear": "no object's shape",
}


@dataclass(frozen=True)
class Description:
    """A description of objects in a scene. form: which attributes it names; fits: indices of the objects it fits."""

    form: int
    text: str
    fits: tuple[int, ...]


def ambiguous_and_clear(scene: Scene, rng: random.Random) -> list[Description]:
    """Descriptions that fit several objects, each followed by one that fits one object, of the same form if possible.

    They use training's wording for a single object. Every fitting object is visible in at least 2 of 8 frames.
    """
    facts = Facts(scene)
    pools: dict[bool, list[Description]] = {True: [], False: []}
    for o in scene.objects:
        # The last form names all three attributes, which no two objects share.
        for form, phrase in enumerate(descriptions(o)[:-1]):
            fits = tuple(meaning(phrase, scene.objects))
            if all(facts.seen_count[k] >= 2 for k in fits):
                wordings = [text.format(d=phrase) for text in ATTRIBUTE.common]
                if form == descriptions(o).index(f"{o.colour} {o.shape}"):
                    wordings += [text.format(s=o.shape, c=o.colour) for text in COLOUR_AFTER.common]
                pools[len(fits) > 1].append(Description(form, rng.choice(wordings), fits))
    ambiguous, clear = ({one.text: one for one in pools[key]} for key in (True, False))
    chosen = rng.sample(sorted(ambiguous.values(), key=lambda one: one.text), min(ASKED, len(ambiguous)))
    found = []
    for one in chosen:
        same = [other for other in clear.values() if other.form == one.form] or list(clear.values())
        if same:
            control = rng.choice(same)
            del clear[control.text]
            found += [one, control]
    return found


def outcome(result: Result, ids: np.ndarray, fits: Sequence[int]) -> Outcome:
    """What the result's tracks show; `ids`, uint8 [N, H, W], is the ground truth."""
    tracks = [masks_of(track, ids.shape) for track in result.tracks if track.present]
    if not tracks:
        return "nothing"
    objects = {_object(masks, ids) for masks in tracks}
    if objects - {None} - set(fits):
        return "other"
    if objects == {None}:
        return "unclear"
    return "one" if len(objects - {None}) == 1 else "several"


def _object(masks: np.ndarray, ids: np.ndarray) -> int | None:
    """The object that a track shows; None if it fits none."""
    overlaps: list[float] = []
    for k in range(int(ids.max())):
        pairs = [(mask, plane == k + 1) for mask, plane in zip(masks, ids, strict=True)]
        overlaps.append(mean(region_similarity(m, t) for m, t in pairs if m.any() or t.any()) or 0.0)
    best = int(np.argmax(overlaps))
    return best if overlaps[best] >= MEANT else None


def area_under_curve(ambiguous: Sequence[float], clear: Sequence[float]) -> float | None:
    """Area under the ROC curve: probability that an ambiguous instruction's value is below a clear one's, ties half."""
    if not ambiguous or not clear:
        return None
    below = np.less.outer(ambiguous, clear).mean() + 0.5 * np.equal.outer(ambiguous, clear).mean()
    return float(below)


def ambiguity(plan: Plan, segmenter: VideoSegmenter, cells: Cells) -> list[Table]:
    """Results of ambiguous instructions and of clear ones about the same clips."""
    groups = [_group(plan, segmenter, cells, seed) for seed in plan.seeds]
    counts = {key: sum(one["ambiguous"] == key for group in groups for one in group) for key in (True, False)}
    drawn = Table(
        "ambiguity",
        f"Segmented objects if an instruction fits several ({counts[True]}) or one ({counts[False]})",
        "instruction",
        {
            **OUTCOMES,
            "score": "track score",
            "log_likelihood": "log-probability a token",
            "least": "least likely token",
        },
        drawn=tuple(OUTCOMES),
        unit="share",
        notes=("Track score: mean over the tracks of an answer; an answer without a track has none.",),
    )
    for label, ambiguous in (("ambiguous", True), ("clear", False)):
        drawn.add(label, [_shares([one for one in group if one["ambiguous"] == ambiguous]) for group in groups])
    separation = Table(
        "ambiguity_auc",
        "Telling ambiguous from clear: area under the ROC curve (0.5 is chance)",
        "by",
        {"auc": "AUC"},
        drawn=("auc",),
        unit="AUC",
    )
    for label, key in (
        ("low track score", "score"),
        ("low log-probability a token", "log_likelihood"),
        ("low log-probability of the least likely token", "least"),
    ):
        separation.add(label, [{"auc": _auc(group, key)} for group in groups])
    return [drawn, separation]


def _shares(asked: list[dict[str, Any]]) -> dict[str, float | None]:
    shares: dict[str, float | None] = {name: mean(one["drawn"] == name for one in asked) for name in OUTCOMES}
    return shares | {key: mean(one[key] for one in asked) for key in ("score", "log_likelihood", "least")}


def _auc(asked: list[dict[str, Any]], key: str) -> float | None:
    known = [one for one in asked if one[key] is not None]
    return area_under_curve(
        [one[key] for one in known if one["ambiguous"]], [one[key] for one in known if not one["ambiguous"]]
    )


def _group(plan: Plan, segmenter: VideoSegmenter, cells: Cells, seed: int) -> list[dict[str, Any]]:
    clips, first = plan.clips or CLIPS, SEEDS_APART * seed
    settings = plan.settings(split=SPLIT, clips=clips, first=first, asked=ASKED)

    def measure() -> dict[str, Any]:
        return {
            "asked": [one for n in range(clips) for one in ask(segmenter, sample_scene(first + n, SPLIT), plan.height)]
        }

    asked: list[dict[str, Any]] = cells.measured(f"ambiguity-group-{seed}", settings, measure)["asked"]
    return asked


def ask(segmenter: VideoSegmenter, scene: Scene, height: int) -> list[dict[str, Any]]:
    """Results of ambiguous and clear instructions about a scene; empty without ambiguous ones."""
    described = ambiguous_and_clear(scene, random.Random(scene.seed))
    if not described:
        return []
    found = []
    with tempfile.TemporaryDirectory(prefix="trajseg-") as folder:
        clip, ids = write_scene(scene, Path(folder) / "clip.mp4", height)
        for one in described:
            result, answer = segmenter.segment(clip, one.text).result(), segmenter.answer(clip, one.text)
            found.append(
                {
                    "seed": scene.seed,
                    "text": one.text,
                    "fits": list(one.fits),
                    "ambiguous": len(one.fits) > 1,
                    "answer": answer.text,
                    "drawn": outcome(result, ids, one.fits),
                    "score": mean(track.score for track in result.tracks if track.present),
                    "log_likelihood": mean(answer.log_likelihoods),
                    "least": min(answer.log_likelihoods),
                }
            )
    return found
