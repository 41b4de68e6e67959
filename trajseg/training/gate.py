"""The gate: whether a candidate replaces the served model, from J&F clip by clip, with a bootstrap confidence interval.

Two questions are asked of the same clips with both models, so that only the difference counts:

* the project's held-out videos: does the candidate gain? Only if the interval of the mean gain lies above zero.
* a fixed set of the base's own data: does it forget? Only if the mean loss stays below a margin.

Both must be answered well. Too few held-out videos are no answer: the candidate is
refused, with how many more are needed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy import stats

from trajseg.errors import InputError

ScoresByClip = Mapping[str, float]
"""J&F by a clip's name, 0 to 1: the mean over its expressions."""


@dataclass(frozen=True)
class GateRules:
    """What a candidate must show.

    Args:
        confidence: of the interval, two-sided.
        min_clips: held-out videos of the project, at least.
        margin: the mean J&F on the base set must not fall by as much as this.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    confidence: float = 0.95
    min_clips: int = 3
    margin: float = 0.02
    resamples: int = 4000
    seed: int = 0


@dataclass(frozen=True)
class Interval:
    """A mean over clips and its confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class ClipPair:
    """A clip's J&F with both models."""

    clip: str
    served: float
    candidate: float

    @property
    def gain(self) -> float:
        """Above 0 where the candidate is better."""
        return self.candidate - self.served


@dataclass(frozen=True)
class GateDecision:
    """Whether the candidate is promoted, and why.

    Args:
        promoted: the verdict.
        reason: one sentence for people.
        served: the model version that it was compared with.
        gain: in J&F on the project; None where nothing was measured.
        base_gain: in J&F on the base set, below 0 for a loss; None where nothing was measured.
        project, base: clip by clip, the greatest gain first.
        needs_videos: how many more corrected videos are needed before there can be an answer.
        rules: that were applied.
    """

    promoted: bool
    reason: str
    served: str = ""
    gain: Interval | None = None
    base_gain: Interval | None = None
    project: tuple[ClipPair, ...] = ()
    base: tuple[ClipPair, ...] = ()
    needs_videos: int = 0
    rules: GateRules = field(default_factory=GateRules)

    def to_json(self) -> dict[str, Any]:
        """Numbers and words."""
        return json.loads(json.dumps(asdict(self)))


def decide(
    served: ScoresByClip,
    candidate: ScoresByClip,
    served_base: ScoresByClip,
    candidate_base: ScoresByClip,
    rules: GateRules = GateRules(),
    served_version: str = "",
) -> GateDecision:
    """The decision from the scores of both models on the project's held-out videos and on the base set.

    Raises:
        InputError: the two models were asked about different clips, or the base set is empty.
    """
    project, base = _pairs(served, candidate, "held-out videos"), _pairs(served_base, candidate_base, "base set")
    if not base:
        raise InputError("The base set of the gate is empty.", "Name a data set with clips to compare on.")
    if len(project) < rules.min_clips:
        return too_few_videos(len(project), 1.0, rules, served_version)
    gain, base_gain = (bootstrap([pair.gain for pair in pairs], rules) for pairs in (project, base))
    promoted, reason = _verdict(gain, base_gain, len(project), len(base), rules)
    return GateDecision(promoted, reason, served_version, gain, base_gain, project, base, 0, rules)


def too_few_videos(held_out: int, share: float, rules: GateRules, served_version: str = "") -> GateDecision:
    """The refusal of a candidate that cannot be judged.

    Args:
        held_out: corrected videos that were held out.
        share: of corrected videos that are, on average; decides how many more have to be corrected.
    """
    missing = math.ceil((rules.min_clips - held_out) / share)
    are = f"{held_out} {_videos(held_out)} {'is' if held_out == 1 else 'are'} held out of training"
    reason = (
        f"Not promoted: needs {'' if share == 1 else 'about '}{missing} more corrected {_videos(missing)}; "
        f"{are}, and {rules.min_clips} are the least to compare on."
    )
    return GateDecision(False, reason, served_version, needs_videos=missing, rules=rules)


def _verdict(gain: Interval, base_gain: Interval, clips: int, base_clips: int, rules: GateRules) -> tuple[bool, str]:
    percent = f"{rules.confidence:.0%}"
    shown = (
        f"{gain.mean:+.3f} J&F on {clips} held-out {_videos(clips)} ({percent}: {gain.low:+.3f} to {gain.high:+.3f})"
    )
    based = f"{base_gain.mean:+.3f} on {base_clips} clips of the base set"
    if gain.low <= 0:
        word = "may be chance" if gain.mean > 0 else "is none"
        return False, f"Not promoted: {shown}, so the gain {word}. {based[0].upper()}{based[1:]}."
    if -base_gain.mean >= rules.margin:
        return False, f"Not promoted: {shown}, but {based}, and it must lose less than {rules.margin:g}."
    return True, f"Promoted: {shown}, {based}."


def _videos(count: int) -> str:
    return "video" if count == 1 else "videos"


def bootstrap(values: Sequence[float], rules: GateRules = GateRules()) -> Interval:
    """The mean of some clips' differences, -1 to 1, and its confidence interval.

    It is the wider, on either side, of the percentile bootstrap's and Student's: a bootstrap of five values cannot
    reach beyond them. As the values are differences of J&F, neither end lies beyond -1 or 1.
    """
    count = len(values)
    if not count:
        raise InputError("There is nothing to take a mean of.", "Measure some clips.")
    mean = fmean(values)
    if count == 1:
        return Interval(mean, -1.0, 1.0)
    tail = (1 - rules.confidence) / 2
    chosen = np.random.default_rng(rules.seed).integers(0, count, size=(rules.resamples, count))
    means = np.asarray(values, float)[chosen].mean(axis=1)
    low, high = np.quantile(means, [tail, 1 - tail])
    reach = float(-stats.t.ppf(tail, count - 1)) * stdev(values) / math.sqrt(count)
    return Interval(mean, max(-1.0, min(float(low), mean - reach)), min(1.0, max(float(high), mean + reach)))


def _pairs(served: ScoresByClip, candidate: ScoresByClip, what: str) -> tuple[ClipPair, ...]:
    if served.keys() != candidate.keys():
        odd = sorted(served.keys() ^ candidate.keys())[0]
        raise InputError(f"The clip {odd} of the {what} was measured with one model only.", "Measure both on the same.")
    pairs = [ClipPair(clip, served[clip], candidate[clip]) for clip in sorted(served)]
    return tuple(sorted(pairs, key=lambda pair: -pair.gain))
