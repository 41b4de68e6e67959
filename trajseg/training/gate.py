"""The gate: decides whether a candidate replaces the served model, from J&F per clip with bootstrap intervals.

Both models are scored on the same expressions and clips, so that only the difference counts:

* On the project's held-out videos the confidence interval of the mean gain must lie above zero.
* One more expression that loses everything must not undo that gain: no interval knows of losses that it has not seen.
* If both hold, the mean loss on a fixed set of the base's own data must stay below a margin.

With too few held-out videos, or a gain that may be noise, the candidate is refused, and the decision says how many more
corrected videos are needed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from trajseg.data.sides import MIN_HELD_OUT, videos_to_hold_out
from trajseg.errors import InputError
from trajseg.training.gain_interval import MOST_CLIPS, Interval, IntervalRules, confidence_interval, missing_clips

ScoresByClip = Mapping[str, Sequence[float]]
"""J&F of each expression of a clip, 0 to 1, by clip name; at least one, in the same order for both models."""
UNSEEN_LOSSES = 1
"""So many more expressions that lose all of their J&F must not undo the gain on the project.

It is measured in docs/lab/0121-losses-that-were-not-seen.md.
"""
RULED_OUT = 3
"""Rule of three: what happened in none of n trials has a rate below 3 / n, with 95 % confidence.

As a condition it would refuse most small gains, so one that does not outlast three losses is promoted with a warning.
"""


@dataclass(frozen=True)
class GateRules(IntervalRules):
    """What a candidate must show.

    Args:
        min_clips: minimum number of the project's held-out videos.
        margin: the mean J&F on the base set must fall by less than this.
    """

    min_clips: int = MIN_HELD_OUT
    margin: float = 0.02


@dataclass(frozen=True)
class ClipPair:
    """A clip's J&F with both models, averaged over `expressions` expressions."""

    clip: str
    served: float
    candidate: float
    expressions: int = 1

    @property
    def gain(self) -> float:
        """Above 0 if the candidate is better."""
        return self.candidate - self.served


@dataclass(frozen=True)
class GateDecision:
    """Whether the candidate is promoted, and why.

    Args:
        promoted: the verdict.
        reason: one sentence for people.
        served: the model version it was compared with.
        gain: in J&F on the project; None if it was not measured.
        base_gain: in J&F on the base set, negative for a loss; None if it was not measured, as after no gain.
        project, base: clip by clip, largest gain first.
        needs_videos: roughly how many more corrected videos would allow a decision; 0 if unknown.
        rules: the rules applied.
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

    @property
    def forgets(self) -> bool:
        """Whether the candidate gains enough on the project, but was refused for its loss on the base set."""
        if self.promoted or self.base_gain is None or self.gain is None:
            return False
        return self.gain.above_zero and outlasts(self.project, UNSEEN_LOSSES)

    def to_json(self) -> dict[str, Any]:
        """As JSON: numbers and text."""
        return json.loads(json.dumps(asdict(self)))


def decide(
    served: ScoresByClip,
    candidate: ScoresByClip,
    served_base: ScoresByClip | None,
    candidate_base: ScoresByClip | None,
    rules: GateRules = GateRules(),
    served_version: str = "",
    corrected: int | None = None,
) -> GateDecision:
    """The decision from both models' scores on the project's held-out videos and on the base set.

    Args:
        served_base, candidate_base: None if `gains_enough` is false, which refuses the candidate whatever they are.
        corrected: see `too_few_videos`.

    Raises:
        InputError: the two models were scored on different expressions, a score is not a finite number, or the base
            set is empty or was not measured though the gain on the project is enough.
    """
    gains = _gains(served, candidate, "held-out videos")
    measured = served_base is not None and candidate_base is not None
    base_gains = _gains(served_base or {}, candidate_base or {}, "base set")
    if not base_gains and (measured or gains_enough(served, candidate, rules)):
        raise InputError("The base set of the gate is empty.", "Name a data set with clips to compare on.")
    if len(gains) < rules.min_clips:
        return too_few_videos(len(gains), corrected, rules, served_version)
    project, base = _pairs(served, candidate), _pairs(served_base or {}, candidate_base or {})
    gain = confidence_interval(gains, rules)
    base_gain = confidence_interval(base_gains, rules) if base_gains else None
    needed = _more_videos(_missing(gains, project, gain, rules), corrected)
    promoted, reason = _verdict(gain, base_gain, project, len(base), needed, corrected, rules)
    return GateDecision(promoted, reason, served_version, gain, base_gain, project, base, needed, rules)


def gains_enough(served: ScoresByClip, candidate: ScoresByClip, rules: GateRules = GateRules()) -> bool:
    """Whether the scores on the project's held-out videos allow a promotion, so that the base set decides."""
    gains = _gains(served, candidate, "held-out videos")
    if len(gains) < rules.min_clips or not outlasts(_pairs(served, candidate), UNSEEN_LOSSES):
        return False
    return confidence_interval(gains, rules).above_zero


def outlasts(pairs: Sequence[ClipPair], losses: int) -> bool:
    """Whether the mean gain over clips outlasts this many more expressions that lose all of the served J&F."""
    return _gain_of(pairs) * sum(pair.expressions for pair in pairs) > losses * fmean(pair.served for pair in pairs)


def clips_to_outlast(pairs: Sequence[ClipPair], losses: int) -> int | None:
    """How many more clips, with as many expressions each, would let this mean gain outlast `losses`; see `outlasts`.

    Returns:
        0: these are enough. None: there is no gain, or more than MOST_CLIPS would be needed.
    """
    if outlasts(pairs, losses):
        return 0
    gain = _gain_of(pairs)
    if gain <= 0:
        return None
    expressions = losses * fmean(pair.served for pair in pairs) / gain
    clips = math.floor(expressions / fmean(pair.expressions for pair in pairs)) + 1
    return clips - len(pairs) if clips <= MOST_CLIPS else None


def _gain_of(pairs: Sequence[ClipPair]) -> float:
    return fmean(pair.gain for pair in pairs)


def _missing(gains: Sequence[Sequence[float]], pairs: Sequence[ClipPair], gain: Interval, rules: GateRules) -> int:
    """How many more held-out clips would make this gain enough; 0 if it is, or if that is unknown."""
    by_interval = missing_clips(gains, rules) if not gain.above_zero and len(gains) > 1 else 0
    unseen = clips_to_outlast(pairs, UNSEEN_LOSSES)
    return 0 if by_interval is None or unseen is None else max(by_interval, unseen)


def too_few_videos(held_out: int, corrected: int | None, rules: GateRules, served_version: str = "") -> GateDecision:
    """The refusal of a candidate that cannot be compared.

    Args:
        held_out: corrected videos that were held out of training.
        corrected: all corrected videos, of which a part is held out; None: each further one is.
    """
    missing = _more_videos(rules.min_clips - held_out, corrected)
    are = f"{held_out} {_videos(held_out)} {'is' if held_out == 1 else 'are'} held out of training"
    reason = (
        f"Not promoted: needs {'' if corrected is None else 'about '}{missing} more corrected {_videos(missing)}; "
        f"{are}, and {rules.min_clips} are the least to compare on."
    )
    return GateDecision(False, reason, served_version, needs_videos=missing, rules=rules)


def _more_videos(held_out: int, corrected: int | None) -> int:
    """How many more corrected videos hold out this many more; see `too_few_videos`."""
    return held_out if corrected is None else videos_to_hold_out(held_out, corrected)


def _verdict(
    gain: Interval,
    base_gain: Interval | None,
    project: Sequence[ClipPair],
    base_clips: int,
    needed: int,
    corrected: int | None,
    rules: GateRules,
) -> tuple[bool, str]:
    percent, clips = f"{rules.confidence:.0%}", len(project)
    expressions = sum(pair.expressions for pair in project)
    shown = (
        f"{gain.mean:+.3f} J&F on {clips} held-out {_videos(clips)} ({percent}: {gain.low:+.3f} to {gain.high:+.3f})"
    )
    based = "" if base_gain is None else f"{base_gain.mean:+.3f} on {base_clips} clips of the base set"
    more = f" A gain of this size needs about {needed} more corrected {_videos(needed)} to show." if needed else ""
    more += f" {based}." if based else ""
    if not gain.above_zero:
        return False, f"Not promoted: {shown}, so the gain {'may be chance' if gain.mean > 0 else 'is none'}.{more}"
    few = f"but {expressions} expressions are too few for so small a gain: one more that fails would undo it"
    if base_gain is None or not outlasts(project, UNSEEN_LOSSES):
        return False, f"Not promoted: {shown}, {few}.{more}"
    if -base_gain.mean >= rules.margin:
        return False, f"Not promoted: {shown}, but {based}, and it must lose less than {rules.margin:g}."
    return True, f"Promoted: {shown}, {based}.{_not_ruled_out(project, expressions, corrected)}"


def _not_ruled_out(project: Sequence[ClipPair], expressions: int, corrected: int | None) -> str:
    """A warning if losses too rare to be seen may undo the gain; empty if not."""
    clips = clips_to_outlast(project, RULED_OUT)
    if clips == 0:
        return ""
    videos = _more_videos(clips or 0, corrected)
    more = f" About {videos} more corrected {_videos(videos)} would." if videos else ""
    return f" {expressions} expressions do not rule out rare large losses that undo it.{more}"


def _videos(count: int) -> str:
    return "video" if count == 1 else "videos"


def _gains(served: ScoresByClip, candidate: ScoresByClip, what: str) -> list[list[float]]:
    """The gains of each clip's expressions, clips ordered by name."""
    if served.keys() != candidate.keys():
        clip = min(served.keys() ^ candidate.keys())
        raise InputError(
            f"The clip {clip} of the {what} was measured with one model only.", "Measure both on the same."
        )
    for clip in served:
        if len(served[clip]) != len(candidate[clip]):
            raise InputError(
                f"The clip {clip} of the {what} was measured on {len(served[clip])} and {len(candidate[clip])} "
                "expressions.",
                "Measure both models on the same.",
            )
        odd_scores = [score for score in (*served[clip], *candidate[clip]) if not math.isfinite(score)]
        if odd_scores or not served[clip]:
            # Comparisons with nan are false, so a broken model would pass.
            said = f"the score {odd_scores[0]}" if odd_scores else "no score"
            raise InputError(f"The clip {clip} of the {what} has {said}.", "J&F is between 0 and 1.")
    return [[b - a for a, b in zip(served[clip], candidate[clip], strict=True)] for clip in sorted(served)]


def _pairs(served: ScoresByClip, candidate: ScoresByClip) -> tuple[ClipPair, ...]:
    pairs = [ClipPair(clip, fmean(served[clip]), fmean(candidate[clip]), len(served[clip])) for clip in sorted(served)]
    return tuple(sorted(pairs, key=lambda pair: -pair.gain))
