"""Review strategies: choose the frames of a track that a person should check; found by name.

A strategy is one class and one line in STRATEGIES, or an entry point of the group `trajseg.strategies` in your own
package; the setting TRAJSEG_REVIEW_STRATEGY selects one. tests/contracts/strategy.py checks the rules below.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from trajseg.plugins import named_class
from trajseg.tracks import MaskTrack

GROUP = "trajseg.strategies"


@dataclass(frozen=True)
class Suggestion:
    """A frame to review.

    Args:
        index: 0-based.
        reason: the strongest sign of trouble on it, in words.
        doubt: how likely it is to be wrong, 0 to 1.
    """

    index: int
    reason: str
    doubt: float


@dataclass(frozen=True)
class Evidence:
    """What is known about a track besides its masks and scores. Fields may be added.

    Args:
        painted: 0-based frames that a person vouches for.
        agreement: by frame, IoU of the propagation passes from either side.
    """

    painted: Collection[int] = ()
    agreement: Mapping[int, float] = field(default_factory=dict)


NOTHING_KNOWN = Evidence()


class ReviewStrategy(Protocol):
    """Chooses frames. It depends only on its arguments: the same track gives the same frames."""

    def doubts(self, track: MaskTrack, evidence: Evidence = NOTHING_KNOWN) -> np.ndarray:
        """How likely each frame is to be wrong, float64 [N] in 0 to 1; 0 where a person painted."""

    def suggest(self, track: MaskTrack, count: int = 3, evidence: Evidence = NOTHING_KNOWN) -> list[Suggestion]:
        """At most `count` frames, most useful first; never a painted one."""


STRATEGIES: Mapping[str, str] = {
    "doubt": "trajseg.correction.review:DoubtStrategy",
    "even": "trajseg.correction.review:EvenStrategy",
}
"""By name, "module:class"."""


def load_strategy(name: str = "doubt") -> ReviewStrategy:
    """The strategy with this name.

    Raises:
        InputError: there is none, or it cannot be imported.
    """
    strategy: ReviewStrategy = named_class("review strategy", name, STRATEGIES, GROUP)()
    return strategy
