"""The mean gain over clips with its confidence interval, from the gains of each clip's expressions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from statistics import variance as variance_of

import numpy as np
from scipy import stats

from trajseg.errors import InputError

MOST_CLIPS = 100
"""Most held-out videos up to which the number of missing ones is extrapolated."""


@dataclass(frozen=True)
class IntervalRules:
    """How an interval is computed.

    Args:
        confidence: of the interval, two-sided.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    confidence: float = 0.95
    resamples: int = 4000
    seed: int = 0


@dataclass(frozen=True)
class Interval:
    """A mean over clips and its confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def above_zero(self) -> bool:
        """Whether all of it lies above zero, to the three digits that a decision shows."""
        return round(self.low, 3) > 0


def confidence_interval(gains: Sequence[Sequence[float]], rules: IntervalRules = IntervalRules()) -> Interval:
    """The mean gain over clips and its confidence interval, -1 to 1.

    On either side it is the wider of two intervals. The first is a percentile bootstrap on two levels, which draws
    clips and then expressions of each. The second is Student's, because a bootstrap of three clips cannot reach beyond
    their extremes. Student's variance is the sum of the variances between clips and between a clip's expressions, with
    Satterthwaite's degrees of freedom. So three clips with many expressions say more than three numbers. If the clips
    differ much more than their expressions, or have one each, it is the plain Student's interval.

    Args:
        gains: of the expressions of each clip; at least one clip, and one expression each.
    """
    count = len(gains)
    if not count or not all(len(each) for each in gains):
        raise InputError("There are no scores to average.", "Measure at least one clip, with one expression.")
    mean = fmean(fmean(each) for each in gains)
    if count == 1:
        return Interval(mean, -1.0, 1.0)
    tail = (1 - rules.confidence) / 2
    low, high = np.quantile(_resampled(gains, rules), [tail, 1 - tail])
    variance, freedom = _variance(gains)
    reach = float(-stats.t.ppf(tail, freedom)) * math.sqrt(variance) if variance else 0.0
    return Interval(mean, max(-1.0, min(float(low), mean - reach)), min(1.0, max(float(high), mean + reach)))


def _resampled(gains: Sequence[Sequence[float]], rules: IntervalRules) -> np.ndarray:
    """Means of resampled clips and expressions, [resamples]."""
    rng, count = np.random.default_rng(rules.seed), len(gains)
    # For each clip, means over resampled expressions; each time a clip is drawn it gives one. [clips, resamples]
    means = np.stack(
        [np.asarray(each, float)[rng.integers(0, len(each), (rules.resamples, len(each)))].mean(1) for each in gains]
    )
    drawn = (rules.resamples, count)
    return means[rng.integers(0, count, drawn), rng.integers(0, rules.resamples, drawn)].mean(1)


def _variance(gains: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Variance of the mean over two or more clips, and its degrees of freedom (Satterthwaite 1946)."""
    count, sizes = len(gains), [len(each) for each in gains]
    within_share = 1 - fmean(1 / size for size in sizes)
    between = variance_of([fmean(each) for each in gains]) / count
    spare = sum(sizes) - count
    squares = sum((value - fmean(each)) ** 2 for each in gains for value in each)
    within = within_share * squares / spare * fmean(1 / size for size in sizes) / count if spare else 0.0
    total = between + within
    if not total:
        return 0.0, 1.0
    return total, total**2 / (between**2 / (count - 1) + (within**2 / spare if spare else 0.0))


def missing_clips(gains: Sequence[Sequence[float]], rules: IntervalRules = IntervalRules()) -> int | None:
    """How many more held-out clips would make this mean gain significant, with the same variance.

    Args:
        gains: as for `confidence_interval`, of at least two clips.

    Returns:
        0: these are enough. None: there is no gain, or more than MOST_CLIPS would be needed.
    """
    count, mean = len(gains), fmean(fmean(each) for each in gains)
    if mean <= 0:
        return None
    variance, freedom = _variance(gains)
    tail = (1 - rules.confidence) / 2
    for clips in range(count, MOST_CLIPS + 1):
        quantile = float(-stats.t.ppf(tail, freedom * (clips - 1) / (count - 1)))
        if quantile * math.sqrt(variance * count / clips) < mean:
            return clips - count
    return None
