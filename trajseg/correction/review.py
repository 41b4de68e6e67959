"""Review: the frames of a track that are most likely wrong, with reasons.

No ground truth is known at this point. Signs of trouble are taken from the track itself: the object is lost or found,
its area or position jumps, its masks are uncertain, or the passes of a refinement disagree. Each frame gets a doubt,
and frames are chosen to cover as much doubt as possible: checking one also settles the frames nearby.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from trajseg.correction.strategy import NOTHING_KNOWN, Evidence, Suggestion
from trajseg.tracks import MaskTrack, rle
from trajseg.video.spacing import bin_centres

Reason = Literal[
    "object lost", "object found", "area jump", "position jump", "low mask score", "passes disagree", "not yet seen"
]

IDLE_DOUBT = 0.05
"""Doubt of a frame without any sign of trouble."""

EVENNESS = 0.5
"""Minimum value of checking any frame: an engine that is confidently wrong shows no signs."""

CLEAR = 0.2
"""How much more doubtful a frame nearby must be to be chosen instead."""

MOST_PLACES = 400
"""Most positions compared with each other in a long clip."""

REACH = 0.12
"""Distance, as a share of the clip's length, at which checking a frame settles half of a neighbour's doubt."""

TROUBLE = 0.4
"""Distance, as a share of that reach, over which a sign of trouble casts doubt on its neighbours."""


class DoubtStrategy:
    """Covers as much doubt as possible; see the module's docstring. The default."""

    def doubts(self, track: MaskTrack, evidence: Evidence = NOTHING_KNOWN) -> np.ndarray:
        """See ReviewStrategy."""
        return doubts_of(track, evidence)[0]

    def suggest(self, track: MaskTrack, count: int = 3, evidence: Evidence = NOTHING_KNOWN) -> list[Suggestion]:
        """See ReviewStrategy."""
        return suggest(track, count, evidence)


class EvenStrategy(DoubtStrategy):
    """Evenly spaced frames, ignoring the track: a baseline, and appropriate if scores are meaningless."""

    def suggest(self, track: MaskTrack, count: int = 3, evidence: Evidence = NOTHING_KNOWN) -> list[Suggestion]:
        """See ReviewStrategy."""
        doubts, reasons = doubts_of(track, evidence)
        free = [index for index in range(len(track)) if index not in set(evidence.painted)]
        chosen = [free[place] for place in sorted(set(bin_centres(len(free), count)))] if free else []
        return [Suggestion(index, reasons[index], float(doubts[index])) for index in chosen]


def suggest(track: MaskTrack, count: int = 3, evidence: Evidence = NOTHING_KNOWN) -> list[Suggestion]:
    """The frames to review, most useful first; fewer than `count` if no others are left.

    Args:
        track: at least one frame.
        count: maximum number of frames.
        evidence: painted frames are not suggested; disagreeing passes are a sign of trouble.
    """
    doubts, reasons = doubts_of(track, evidence)
    painted = set(evidence.painted)
    reach = max(2.0, REACH * len(doubts))
    places, weights = _pooled(EVENNESS + (1 - EVENNESS) * _spread(doubts, reach * TROUBLE))

    def settled(looks: np.ndarray) -> np.ndarray:
        """How far checking frames [k] settles the doubt at each position, [positions, k]."""
        return 1 / (1 + np.abs(places[:, None] - looks[None]) / reach)

    seen = np.fromiter(sorted(painted), float, len(painted))
    known = settled(seen).max(axis=1, initial=0.0)
    table = settled(places)
    free = np.flatnonzero(~np.isin(places, seen))
    chosen: list[int] = []
    for _ in range(min(count, len(free))):
        chosen.append(_best(table, weights, free, chosen, known))
    # Chosen greedily, the first would be in the middle whatever follows; so each moves once or twice more.
    for _ in range(2):
        for number in range(len(chosen)):
            others = chosen[:number] + chosen[number + 1 :]
            chosen[number] = _best(table, weights, free, others, known)
    ordered: list[int] = []
    while chosen:
        ordered.append(_best(table, weights, np.array(chosen), ordered, known))
        chosen.remove(ordered[-1])
    frames: list[int] = []
    for k in ordered:
        near = [
            i for i in range(len(doubts)) if abs(i - places[k]) <= reach / 2 and i not in painted and i not in frames
        ]
        worst = max(near, key=lambda i: doubts[i], default=int(places[k]))
        # Show the trouble itself, not the frame next to it.
        clear = doubts[worst] > doubts[places[k]] + CLEAR
        frames.append(worst if clear or places[k] in frames else int(places[k]))
    return [Suggestion(index, reasons[index], float(doubts[index])) for index in frames]


def doubts_of(track: MaskTrack, evidence: Evidence = NOTHING_KNOWN) -> tuple[np.ndarray, list[Reason]]:
    """Doubt of each frame, float64 [N] in 0 to 1, and the strongest reason for it; painted frames have none."""
    n = len(track)
    signs: dict[Reason, np.ndarray] = {"not yet seen": np.full(n, IDLE_DOUBT)}
    here = np.array([frame.rle is not None for frame in track.frames])
    lost, found = np.zeros(n), np.zeros(n)
    lost[1:], found[1:] = here[:-1] & ~here[1:], ~here[:-1] & here[1:]
    # The frames on either side of a change share it.
    signs["object lost"] = 0.6 * np.maximum(lost, np.roll(lost, -1))
    signs["object found"] = 0.6 * np.maximum(found, np.roll(found, -1))
    area = np.array([0 if frame.rle is None else rle.area(frame.rle) for frame in track.frames], float)
    signs["area jump"] = _jump(np.log(np.maximum(area, 1)), here, 0.5)
    boxes = [track.box(i) for i in range(n)]
    centre = np.array([(0.0, 0.0) if b is None else (b[0] + b[2] / 2, b[1] + b[3] / 2) for b in boxes])
    side = np.sqrt(np.maximum(np.median(area[here]) if here.any() else 1.0, 1.0))
    signs["position jump"] = np.maximum(_jump(centre[:, 0] / side, here, 0.5), _jump(centre[:, 1] / side, here, 0.5))
    scores = np.array([frame.score for frame in track.frames])
    # Where the object is absent there is no mask, and engines differ in what their score then means.
    signs["low mask score"] = np.where(here, 1.0 - scores, 0.0)
    if evidence.agreement:
        signs["passes disagree"] = np.array([1.0 - evidence.agreement.get(i, 1.0) for i in range(n)])
    names = list(signs)
    table = np.stack([signs[name] for name in names])
    table[:, sorted(evidence.painted)] = 0.0
    doubts = 1.0 - np.prod(1.0 - np.clip(table, 0.0, 1.0), axis=0)
    return doubts, [names[k] for k in table.argmax(axis=0)]


def _jump(values: np.ndarray, here: np.ndarray, scale: float) -> np.ndarray:
    """How much a value departs from linear motion, 0 to 1: second difference [N] over `scale`, where present."""
    out = np.zeros(len(values))
    if len(values) > 2:
        bend = np.abs(values[2:] - 2 * values[1:-1] + values[:-2])
        out[1:-1] = np.where(here[2:] & here[1:-1] & here[:-2], bend / scale, 0.0)
    return np.clip(out, 0.0, 1.0)


def _spread(doubts: np.ndarray, reach: float) -> np.ndarray:
    """Doubt [N] spread to neighbouring frames, fading with distance: trouble is rarely limited to one frame."""
    out, keep = doubts.copy(), float(np.exp(-1 / reach))
    for i in range(1, len(out)):
        out[i] = max(out[i], out[i - 1] * keep)
    for i in range(len(out) - 2, -1, -1):
        out[i] = max(out[i], out[i + 1] * keep)
    return out


def _pooled(doubts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Long clips in at most MOST_PLACES segments: the most doubtful frame of each, and the segment's total doubt."""
    n = len(doubts)
    starts = np.unique(np.linspace(0, n, min(n, MOST_PLACES), endpoint=False).astype(int))
    places = [a + int(np.argmax(part)) for a, part in zip(starts, np.split(doubts, starts[1:]), strict=True)]
    return np.array(places), np.add.reduceat(doubts, starts)


def _best(table: np.ndarray, weights: np.ndarray, free: np.ndarray, taken: list[int], known: np.ndarray) -> int:
    """The free position that settles most doubt beyond what the chosen and known positions already settle."""
    covered = np.maximum(known, table[:, taken].max(axis=1, initial=0.0))
    gain = weights @ np.maximum(table[:, free] - covered[:, None], 0.0)
    gain[np.isin(free, taken)] = -1.0
    # The position's own doubt breaks ties in favour of the trouble itself.
    return int(free[np.argmax(gain + 1e-6 * weights[free])])
