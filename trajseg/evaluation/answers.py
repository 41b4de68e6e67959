"""One answer of an engine to one expression, and its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np

from trajseg.data.dataset import AnnotatedClip, Expression
from trajseg.evaluation.metrics import Presence, Score, Steadiness, match, mean, presence, score, steadiness
from trajseg.tracks import MaskTrack, Result
from trajseg.tracks.region_similarity import region_similarity


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An engine's answer to an expression, and its scores over the annotated frames.

    Args:
        number: of the clip in its data set, 0-based.
        clip: its name.
        asked: the expression.
        result: the engine's result.
        score: J and F of the union of all tracks against the union of all targets, means over frames.
        matched: the same per object, for the best assignment of tracks to targets; None without targets.
        overlaps: J of the union of tracks with each object of the clip, averaged over frames that have either; by uid.
        steadiness, truth_steadiness: IoU between consecutive frames, for the unions.
        presence: the frames on which the unions have a mask.
        seconds: the engine's run time.
        flops: floating-point operations of the same run; counted for one expression per clip, else None.
    """

    number: int
    clip: str
    asked: Expression
    result: Result
    score: Score
    matched: Score | None
    overlaps: Mapping[str, float]
    steadiness: Steadiness
    truth_steadiness: Steadiness
    presence: Presence
    seconds: float
    flops: float | None = None

    @property
    def empty(self) -> bool:
        """Whether no frame has a mask."""
        return not any(track.present for track in self.result.tracks)

    @property
    def right_object(self) -> bool | None:
        """Whether the mask overlaps the intended object more than any other; None for other questions."""
        if len(self.asked.targets) != 1:
            return None
        best = max(self.overlaps, key=lambda uid: self.overlaps[uid])
        return best == self.asked.targets[0] and self.overlaps[best] > 0

    def to_json(self) -> dict[str, Any]:
        """As JSON: numbers and text, without masks."""
        return {
            "clip": self.clip,
            **asdict(self.asked),
            "answer": self.result.answer,
            "tracks": len(self.result.tracks),
            "j": self.score.j,
            "f": self.score.f,
            "jf": self.score.jf,
            "matched_jf": None if self.matched is None else self.matched.jf,
            "empty": self.empty,
            "right_object": self.right_object,
            "consecutive_iou": self.steadiness.mean,
            "consecutive_iou_truth": self.truth_steadiness.mean,
            "ghosts": self.presence.ghosts,
            "missed": self.presence.missed,
            "seconds": self.seconds,
            "flops": self.flops,
        }


class ScoredClip:
    """A clip of a data set whose ground-truth masks are decoded once for all its expressions.

    Args:
        number: of the clip in its data set.
        annotated: the clip.
    """

    def __init__(self, number: int, annotated: AnnotatedClip) -> None:
        self.number, self.annotated = number, annotated
        self.frames = annotated.scored
        self.truths = {thing.uid: annotated.masks([thing.uid], self.frames)[0] for thing in annotated.objects}

    def answer(self, asked: Expression, result: Result, seconds: float) -> Answer:
        """The scores of a result."""
        clip = self.annotated.clip
        shape = (len(self.frames), clip.height, clip.width)
        predictions = [masks_of(track, shape, self.frames) for track in result.tracks]
        targets = [self.truths[uid] for uid in asked.targets]
        union, truth = _union(predictions, shape), _union(targets, shape)
        return Answer(
            number=self.number,
            clip=self.annotated.name,
            asked=asked,
            result=result,
            score=score(union, truth) if targets else _empty_score(union),
            matched=_matched(predictions, targets) if targets else None,
            overlaps={uid: _overlap(union, masks) for uid, masks in self.truths.items()},
            steadiness=steadiness(union),
            truth_steadiness=steadiness(truth),
            presence=presence(union, truth),
            seconds=seconds,
        )


def masks_of(track: MaskTrack, shape: Sequence[int], frames: Sequence[int] | None = None) -> np.ndarray:
    """Masks of a track in these frames, bool [T, H, W].

    Args:
        shape: T, H, W.
        frames: 0-based; None: the first T.
    """
    return np.stack([track.mask(i, (shape[1], shape[2])) for i in (range(shape[0]) if frames is None else frames)])


def _union(masks: Sequence[np.ndarray], shape: tuple[int, int, int]) -> np.ndarray:
    return np.any(masks, axis=0) if masks else np.zeros(shape, bool)


def _overlap(prediction: np.ndarray, truth: np.ndarray) -> float:
    pairs = zip(prediction, truth, strict=True)
    return mean(region_similarity(p, t) for p, t in pairs if p.any() or t.any()) or 0.0


def _empty_score(union: np.ndarray) -> Score:
    """If nothing is intended, J = F = 1 on a frame without a mask and 0 on any other, as in MeViS v2."""
    value = float(np.mean(~union.any(axis=(1, 2))))
    return Score(value, value)


def _matched(predictions: list[np.ndarray], truths: list[np.ndarray]) -> Score:
    if len(truths) == 1 and len(predictions) == 1:
        return score(predictions[0], truths[0])
    pairing = match(predictions, truths)
    scores = [score(None if j is None else predictions[j], t) for j, t in zip(pairing, truths, strict=True)]
    return Score(fmean(s.j for s in scores), fmean(s.f for s in scores))
