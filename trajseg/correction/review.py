"""What to look at next: the frames of a track that are most likely wrong, with the reason.

No truth is known when this runs. Signs of trouble are looked for in the track itself: the object is lost or found,
its area or place jumps, its masks are unsure, or the passes of a refinement disagree. Each frame gets a doubt, and
frames are chosen so that looking at them covers as much doubt as possible: one look also settles the frames nearby.
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
"""Doubt of a frame that shows no sign of trouble."""

EVENNESS = 0.5
"""How much every frame is worth a look whatever its signs: an engine that is confidently wrong shows none."""

CLEAR = 0.2
"""How much more doubtful a frame nearby must be to be looked at instead."""

MOST_PLACES = 400
"""Places that are weighed against each other in a long clip."""

REACH = 0.12
"""Share of the clip's length at which a look at a frame settles half of a neighbour's doubt."""

TROUBLE = 0.4
"""Share of the reach over which a sign of trouble throws doubt on its neighbours."""


class DoubtStrategy:
    """Covers as much doubt as possible: see this module's first lines. The default."""

    def doubts(self, track: MaskTrack, evidence: Evidence = NOTHING_KNOWN) -> np.ndarray:
        """See ReviewStrategy."""
        return doubts_of(track, evidence)[0]

    def suggest(self, track: MaskTrack, count: int = 3, evidence: Evidence = NOTHING_KNOWN) -> list[Suggestion]:
        """See ReviewStrategy."""
        return suggest(track, count, evidence)


class EvenStrategy(DoubtStrategy):
    """Evenly spaced frames, whatever the track looks like: a baseline, and right where scores mean nothing."""

    def suggest(self, track: MaskTrack, count: int = 3, evidence: Evidence = NOTHING_KNOWN) -> list[Suggestion]:
        """See ReviewStrategy."""
        doubts, reasons = doubts_of(track, evidence)
        free = [index for index in range(len(track)) if index not in set(evidence.painted)]
        chosen = [free[place] for place in sorted(set(bin_centres(len(free), count)))] if free else []
        return [Suggestion(index, reasons[index], float(doubts[index])) for index in chosen]


def suggest(track: MaskTrack, count: int = 3, evidence: Evidence = NOTHING_KNOWN) -> list[Suggestion]:
    """The frames to look at, most useful first; fewer than `count` when no others are left.

    Args:
        track: at least one frame.
        count: frames at most.
        evidence: painted frames are not suggested; passes that disagree are a sign of trouble.
    """
    doubts, reasons = doubts_of(track, evidence)
    painted = set(evidence.painted)
    reach = max(2.0, REACH * len(doubts))
    places, weights = _pooled(EVENNESS + (1 - EVENNESS) * _spread(doubts, reach * TROUBLE))

    def settled(looks: np.ndarray) -> np.ndarray:
        """How far looks at frames [k] settle each place, [places, k]."""
        return 1 / (1 + np.abs(places[:, None] - looks[None]) / reach)

    seen = np.fromiter(sorted(painted), float, len(painted))
    known = settled(seen).max(axis=1, initial=0.0)
    table = settled(places)
    free = np.flatnonzero(~np.isin(places, seen))
    chosen: list[int] = []
    for _ in range(min(count, len(free))):
        chosen.append(_best(table, weights, free, chosen, known))
    # Chosen one by one, the first would stand in the middle however many follow; so each moves once more or twice.
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
        # A person is shown the trouble itself, not the frame beside it.
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
    # Where the object is absent there is no mask, and engines differ in what they then call the score.
    signs["low mask score"] = np.where(here, 1.0 - scores, 0.0)
    if evidence.agreement:
        signs["passes disagree"] = np.array([1.0 - evidence.agreement.get(i, 1.0) for i in range(n)])
    names = list(signs)
    table = np.stack([signs[name] for name in names])
    table[:, sorted(evidence.painted)] = 0.0
    doubts = 1.0 - np.prod(1.0 - np.clip(table, 0.0, 1.0), axis=0)
    return doubts, [names[k] for k in table.argmax(axis=0)]


def _jump(values: np.ndarray, here: np.ndarray, scale: float) -> np.ndarray:
    """How much a value departs from a straight course, 0 to 1: second difference [N] over `scale`, where present."""
    out = np.zeros(len(values))
    if len(values) > 2:
        bend = np.abs(values[2:] - 2 * values[1:-1] + values[:-2])
        out[1:-1] = np.where(here[2:] & here[1:-1] & here[:-2], bend / scale, 0.0)
    return np.clip(out, 0.0, 1.0)


def _spread(doubts: np.ndarray, reach: float) -> np.ndarray:
    """Doubt [N] that also stands around its frames and fades with distance: trouble is seldom one frame long."""
    out, keep = doubts.copy(), float(np.exp(-1 / reach))
    for i in range(1, len(out)):
        out[i] = max(out[i], out[i - 1] * keep)
    for i in range(len(out) - 2, -1, -1):
        out[i] = max(out[i], out[i + 1] * keep)
    return out


def _pooled(doubts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Long clips in at most MOST_PLACES stretches: the most doubtful frame of each, and the stretch's summed doubt."""
    n = len(doubts)
    starts = np.unique(np.linspace(0, n, min(n, MOST_PLACES), endpoint=False).astype(int))
    places = [a + int(np.argmax(part)) for a, part in zip(starts, np.split(doubts, starts[1:]), strict=True)]
    return np.array(places), np.add.reduceat(doubts, starts)


def _best(table: np.ndarray, weights: np.ndarray, free: np.ndarray, taken: list[int], known: np.ndarray) -> int:
    """The free place whose look settles most doubt beyond what looks at the places taken and known settle."""
    covered = np.maximum(known, table[:, taken].max(axis=1, initial=0.0))
    gain = weights @ np.maximum(table[:, free] - covered[:, None], 0.0)
    gain[np.isin(free, taken)] = -1.0
    # The place's own doubt breaks ties towards the trouble itself.
    return int(free[np.argmax(gain + 1e-6 * weights[free])])
